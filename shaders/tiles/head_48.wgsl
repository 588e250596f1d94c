// The width of a head: 48.
const HEAD4 = 12u; // in vec4s
