// A matrix product's elements: the gradient of a weight from half-precision activations and their gradients. Sums are f32 always.
alias ElementA = f16;
alias ElementB = f16;
alias ElementC = f32;
