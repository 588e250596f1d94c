// A matrix product's elements: half-precision activations by full-precision weights, to be added to the f32 residual. Sums are
// f32 always.
alias ElementA = f16;
alias ElementB = f32;
alias ElementC = f32;
