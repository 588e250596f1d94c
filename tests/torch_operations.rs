//! Operations against PyTorch, from `lm/ops.safetensors` of the folder that `tests/reference/README.md` describes.

use crate::common::{assert_close, each_family, reference};
use safetensors::{Dtype, SafeTensors};
use wgrad::Tensor;
use wgrad::ops::{self, Gelu};

fn read() -> Vec<u8> {
    std::fs::read(reference("lm/ops.safetensors")).unwrap()
}

/// The values of a tensor of f32 or f64.
fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    match view.dtype() {
        Dtype::F32 => bytemuck::pod_collect_to_vec(view.data()),
        Dtype::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(view.data()).iter().map(|&v| v as f32).collect(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn torch_gelu_in_two_forms() {
    let bytes = read();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let x = floats(&file, "gelu/x");
    for gpu in each_family() {
        for (name, approximate) in [("gelu", Gelu::Erf), ("gelu_new", Gelu::Tanh)] {
            let leaf = Tensor::from_slice(&gpu, &[x.len()], &x).unwrap().requires_grad().unwrap();
            let y = ops::gelu(&leaf, approximate).unwrap();
            assert_close(name, &y.to_vec().unwrap(), &floats(&file, &format!("{name}/value")), 1e-6);
            let gradients = y.backward_from(&Tensor::from_slice(&gpu, &[x.len()], &vec![1.0f32; x.len()]).unwrap());
            let slope = gradients.unwrap().get(&leaf).unwrap().to_vec().unwrap();
            assert_close(name, &slope, &floats(&file, &format!("{name}/derivative")), 1e-6);
        }
    }
}

#[test]
fn torch_embedding() {
    let bytes = read();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids: Vec<u32> = bytemuck::pod_collect_to_vec::<u8, i64>(file.tensor("embedding/ids").unwrap().data())
        .iter()
        .map(|&id| u32::try_from(id).unwrap())
        .collect();
    for gpu in each_family() {
        let of = |name: &str| {
            let dims = file.tensor(name).unwrap().shape().to_vec();
            Tensor::from_slice(&gpu, &dims, &floats(&file, name)).unwrap()
        };
        let weight = of("embedding/weight").requires_grad().unwrap();
        let ids = Tensor::from_slice(&gpu, file.tensor("embedding/ids").unwrap().shape(), &ids).unwrap();
        let y = ops::embedding(&weight, &ids).unwrap();
        assert_eq!(y.to_vec::<f32>().unwrap(), floats(&file, "embedding/output"));
        let gradients = y.backward_from(&of("embedding/doutput")).unwrap();
        let dweight = gradients.get(&weight).unwrap().to_vec().unwrap();
        assert_close("dweight", &dweight, &floats(&file, "embedding/dweight_f64"), 1e-6);
    }
}
