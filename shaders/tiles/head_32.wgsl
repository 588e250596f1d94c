// The width of a head: 32.
const HEAD4 = 8u; // in vec4s
