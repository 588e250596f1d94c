// fault_raise: leaves the first value that was out of range in the dispatch's place of a table of the device's, which
// read-backs bring along.
// Use: the kernel declares  @group(0) @binding(..) var<storage, read_write> fault_flag: FaultFlag;
// and `fault` among its Params: what is out of range, and from bit 8 on the place (src/gpu/fault.rs).

struct FaultPlace {
    count: atomic<u32>,
    code: u32,
    value: u32,
    bound: u32,
}

struct FaultFlag {
    places: array<FaultPlace, 16>,
}

fn fault_raise(fault: u32, value: u32, bound: u32) {
    let place = fault >> 8u;
    // Only the invocation that finds a count of 0 writes the words, so they always belong together.
    if atomicAdd(&fault_flag.places[place].count, 1u) == 0u {
        fault_flag.places[place].code = fault & 255u;
        fault_flag.places[place].value = value;
        fault_flag.places[place].bound = bound;
    }
}
