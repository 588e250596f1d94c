// The width of a head: 16.
const HEAD4 = 4u; // in vec4s
