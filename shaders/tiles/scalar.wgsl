// What a kernel counts in, where rows have any number of floats.
alias Item = f32;
