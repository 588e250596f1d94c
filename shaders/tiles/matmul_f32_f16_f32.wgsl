// A matrix product's elements: the gradient of a weight from half-precision activations and a full-precision gradient. Sums are
// f32 always.
alias ElementA = f32;
alias ElementB = f16;
alias ElementC = f32;
