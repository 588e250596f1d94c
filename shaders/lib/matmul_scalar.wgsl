// What the matrix product that reads and writes single elements has besides lib/matmul.wgsl. With tiles/scalar.wgsl and a file
// tiles/matmul_*.wgsl.

// An item as C stores it.
alias ItemC = ElementC;
