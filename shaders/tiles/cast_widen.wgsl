// From half to full precision.
alias From = vec4<f16>;
alias To = vec4<f32>;
