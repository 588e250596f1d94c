// The width of a head: 96.
const HEAD4 = 24u; // in vec4s
