// From full to half precision.
alias From = vec4<f32>;
alias To = vec4<f16>;
