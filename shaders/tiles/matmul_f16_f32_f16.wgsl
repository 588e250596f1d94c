// A matrix product's elements: half-precision activations by full-precision weights. Sums are f32 always.
alias ElementA = f16;
alias ElementB = f32;
alias ElementC = f16;
