// The sum of a workgroup's 64 values.

fn reduction_of_team(value: f32, lane: u32) -> f32 {
    return reduce_sum(value, lane, 64u);
}
