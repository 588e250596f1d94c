// The compute bound: x ← m·x + c, over and over, in independent chains of vec4.
//
// seed: array<vec4<f32>>, one element (m, c, start, –); result: one vec4 for each invocation, so that nothing can be left
// out. 64 invocations a workgroup. An invocation does chains · 4 · 16 · ROUNDS multiply-adds.
//
// `few` has twelve chains of single floats: enough to hide the latency of an fma, few enough for the 16 registers of a CPU.
// `many` has 32, for devices with more of either.

@group(0) @binding(0) var<storage, read> seed: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> result: array<vec4<f32>>;

const ROUNDS = 64u;

fn twice(x: vec4<f32>, m: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    return fma(fma(x, m, c), m, c);
}

@compute @workgroup_size(64)
fn few(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = vec4<f32>(seed[0].x);
    let c = vec4<f32>(seed[0].y);
    var x0 = vec4<f32>(f32(id.x) + seed[0].z);
    var x1 = x0 + 1.0;
    var x2 = x0 + 2.0;
    for (var round = 0u; round < ROUNDS; round++) {
        x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c);
        x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c);
        x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c);
        x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c);
        x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c);
        x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c);
        x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c);
        x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c);
    }
    result[id.x] = x0 + x1 + x2;
}

@compute @workgroup_size(64)
fn many(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = vec4<f32>(seed[0].x);
    let c = vec4<f32>(seed[0].y);
    var x0 = vec4<f32>(f32(id.x) + seed[0].z);
    var x1 = x0 + 1.0;
    var x2 = x0 + 2.0;
    var x3 = x0 + 3.0;
    var x4 = x0 + 4.0;
    var x5 = x0 + 5.0;
    var x6 = x0 + 6.0;
    var x7 = x0 + 7.0;
    for (var round = 0u; round < ROUNDS; round++) {
        for (var i = 0u; i < 2u; i++) {
            x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c); x3 = twice(x3, m, c);
            x4 = twice(x4, m, c); x5 = twice(x5, m, c); x6 = twice(x6, m, c); x7 = twice(x7, m, c);
            x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c); x3 = twice(x3, m, c);
            x4 = twice(x4, m, c); x5 = twice(x5, m, c); x6 = twice(x6, m, c); x7 = twice(x7, m, c);
            x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c); x3 = twice(x3, m, c);
            x4 = twice(x4, m, c); x5 = twice(x5, m, c); x6 = twice(x6, m, c); x7 = twice(x7, m, c);
            x0 = twice(x0, m, c); x1 = twice(x1, m, c); x2 = twice(x2, m, c); x3 = twice(x3, m, c);
            x4 = twice(x4, m, c); x5 = twice(x5, m, c); x6 = twice(x6, m, c); x7 = twice(x7, m, c);
        }
    }
    result[id.x] = x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7;
}
