// A matrix product's elements: a full-precision gradient by weights: the gradient of a half-precision activation. Sums are f32
// always.
alias ElementA = f32;
alias ElementB = f32;
alias ElementC = f16;
