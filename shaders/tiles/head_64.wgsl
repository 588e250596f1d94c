// The width of a head: 64.
const HEAD4 = 16u; // in vec4s
