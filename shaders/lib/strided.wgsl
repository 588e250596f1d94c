// The place of an element in tensors that are walked in an order of their own: broadcast, permuted, a part of a larger one. An
// index runs over the sizes d1 to d5 of the kernel's Params, the last fastest, and over what is left along a sixth, outermost
// axis; x0 to x5 and y0 to y5 are what a step along each axis moves in the operands x and y.

struct StridedPlaces { x: u32, y: u32 }

fn strided_places(i: u32) -> StridedPlaces {
    var rest = i;
    let i5 = rest % params.d5;
    rest /= params.d5;
    let i4 = rest % params.d4;
    rest /= params.d4;
    let i3 = rest % params.d3;
    rest /= params.d3;
    let i2 = rest % params.d2;
    rest /= params.d2;
    let i1 = rest % params.d1;
    let i0 = rest / params.d1;
    return StridedPlaces(
        i0 * params.x0 + i1 * params.x1 + i2 * params.x2 + i3 * params.x3 + i4 * params.x4 + i5 * params.x5,
        i0 * params.y0 + i1 * params.y1 + i2 * params.y2 + i3 * params.y3 + i4 * params.y4 + i5 * params.y5,
    );
}
