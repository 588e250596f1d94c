// The largest of a workgroup's 64 values.

fn reduction_of_team(value: f32, lane: u32) -> f32 {
    // NaN, or 0 if there is none: what reduce_max makes of one is the driver's choice.
    let nan = reduce_sum(select(0.0, value, nan_is(value)), lane, 64u);
    return reduce_max(value, lane, 64u) + nan;
}
