// The width of a head: 80.
const HEAD4 = 20u; // in vec4s
