// Four activations in full precision. Kernels load them as vec4<f32>(x[i]), compute in f32, and store Act(value).
alias Act = vec4<f32>;
