// fault_raise: leaves the first value that was out of range in the device's sticky flag, which every read-back checks.
// Use: the kernel declares  @group(0) @binding(..) var<storage, read_write> fault_flag: FaultFlag;

struct FaultFlag {
    count: atomic<u32>,
    code: u32,
    value: u32,
    bound: u32,
}

fn fault_raise(code: u32, value: u32, bound: u32) {
    // Only the invocation that finds a count of 0 writes the words, so they always belong together.
    if atomicAdd(&fault_flag.count, 1u) == 0u {
        fault_flag.code = code;
        fault_flag.value = value;
        fault_flag.bound = bound;
    }
}
