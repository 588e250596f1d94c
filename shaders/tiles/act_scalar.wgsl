// One activation in full precision, where rows have any number of floats.
alias Act = f32;
