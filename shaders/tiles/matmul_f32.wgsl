// A matrix product's elements: everything in full precision. Sums are f32 always.
alias ElementA = f32;
alias ElementB = f32;
alias ElementC = f32;
