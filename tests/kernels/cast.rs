use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, gpu_with_f16, values};
use wgrad::{DType, Tensor, ops};

#[test]
fn rounds_to_nearest() {
    let Some(gpu) = gpu_with_f16() else { return };
    for n in [1, 7, 1757] {
        let x: Vec<_> = values(1, n).iter().map(|v| v * 300.0).collect();
        let leaf = leaf(&gpu, &[n], &x);
        let narrow = ops::cast(&leaf, DType::F16).unwrap();
        assert_eq!(narrow.info().to_string(), format!("f16[{n}]"));
        let wide = ops::cast(&narrow, DType::F32).unwrap();
        // Half a step of 2^-10, since a driver may round the other way.
        assert_close("cast", &wide.to_vec().unwrap(), &ops::cast::reference::narrow(&x), 1e-3);
        let dy = values(2, n);
        assert_gradients("cast", &wide, &dy, &[(&leaf, &ops::cast::reference::narrow(&dy))], 1e-3);
    }
}

#[test]
fn small_whole_numbers_are_exact_and_large_ones_overflow() {
    let Some(gpu) = gpu_with_f16() else { return };
    let x = [0.0, -1.0, 2047.0, 2048.0, 65504.0, 70000.0, -1e9];
    let x = Tensor::from_slice(&gpu, &[7], &x).unwrap();
    let wide = ops::cast(&ops::cast(&x, DType::F16).unwrap(), DType::F32).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(wide, [0.0, -1.0, 2047.0, 2048.0, 65504.0, f32::INFINITY, f32::NEG_INFINITY]);
}

#[test]
fn misfits_are_named() {
    let [gpu, _] = each_family();
    let labels = Tensor::from_slice(&gpu, &[3], &[1u32, 2, 3]).unwrap();
    let message = ops::cast(&labels, DType::F32).unwrap_err().to_string();
    assert_eq!(message, "cast: casts between f32 and f16: got u32[3]");
}
