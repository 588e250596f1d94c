// What the optimisers' passes share (optim_norm.wgsl, optim_update.wgsl, optim_ema.wgsl).
//
// A segment holds parameters side by side, each starting at a multiple of 64 elements: a block, which thus belongs to one
// parameter. The gaps behind a parameter's last element hold zeros in values and moments; in gradients, what lies before the
// next multiple of four may hold anything.
//
// There are three arenas, whose segments of the same number hold parts of the same parameters: values hold all of a model's,
// moments and average those that the optimiser trains or has trained, gradients those that have room for one. The passes go over
// the blocks of the moments; of an active row all three places are set. A segment that is too large to be bound holds one parameter
// alone, and each of its parts is passed over as a segment.

struct Params {
    elements: u32, // of this segment of the moments, with gaps
    first_block: u32, // of this segment in `owner`
    partials: u32, // rows of `partial` written so far, or in total
    nesterov: u32, // sgd
    rate: f32,
    beta1: f32, // sgd: momentum
    beta2: f32, // sgd: dampening
    eps: f32,
    max_norm: f32, // 0: no clipping
    log_beta1: f32, // natural logarithms, from the host in double precision
    log_beta2: f32,
    growth: f32, // of the loss scale, after `interval` good steps
    backoff: f32, // of the loss scale, after a bad one; 1: the scale is constant
    interval: u32,
    floor: f32, // of the loss scale
    ema_share: f32, // of the weights in their new running average: 1 - decay
    parameters: u32, // rows of the table
    is_packed: u32, // whether the values' segment holds more than this one
    skipped: u32, // elements of the same parameter before these, in a part of a segment
}

// A parameter's places in its segments, how it is treated, and how often it has been updated. The last three are the device's
// own: of active rows, norm_total sets them at every step.
struct Row {
    start: u32, // element of the moments' and the average's segment
    value_start: u32, // element of the values' segment
    grad_start: u32, // element of the gradients' segment
    numel: u32,
    is_active: u32, // 0: frozen or without a gradient in this step, left alone
    weight_decay: f32,
    rate_scale: f32,
    updates: u32, // of this parameter, with this one: Adam's t
    correction1: f32, // 1 - beta1^t
    correction2: f32, // 1 - beta2^t
}

struct State {
    is_finite: u32, // whether the last gradient was finite
    bad_parameter: u32, // if not, the first offender's id
    norm: f32, // of the last gradient, before clipping, without the loss scale
    grad_scale: f32, // what the update multiplies gradients by: clips, and takes the loss scale out
    applied: u32, // updates applied
    skipped: u32, // updates skipped
    loss_scale: f32, // by which the last gradient was multiplied
    is_excused: u32, // whether the update was skipped only because the loss scale was too large
    good_steps: u32, // since the loss scale last changed
}

const OPTIM_BLOCK = 64u; // elements
const OPTIM_BLOCK_ITEMS = 16u; // vec4

// Where the four elements at item `i` of the moments lie in the arena in which the parameter begins at element `start`.
fn optim_item(i: u32, row: Row, start: u32) -> u32 {
    return (i * 4u - row.start + start) / 4u;
}

// Which of the four elements from `first` on are before the parameter's end.
fn optim_inside(first: u32, row: Row) -> vec4<bool> {
    return params.skipped + first - row.start + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(row.numel);
}
