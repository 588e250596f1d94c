// The width of a head: 128.
const HEAD4 = 32u; // in vec4s
