use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, values};
use wgrad::{Tensor, ops};

#[test]
fn reshape() {
    for gpu in each_family() {
        let (x, dy) = (values(1, 65 * 12), values(2, 65 * 12));
        let tx = leaf(&gpu, &[65, 12], &x);
        let y = ops::reshape(&tx, &[5, 13, 3, 4]).unwrap();
        assert_eq!(y.dims(), [5, 13, 3, 4]);
        assert_close("reshape", &y.to_vec().unwrap(), &x, 0.0);
        assert_gradients("reshape", &y, &dy, &[(&tx, &dy)], 0.0);
        let labels = Tensor::from_slice(&gpu, &[6], &[1u32, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(ops::reshape(&labels, &[2, 3]).unwrap().to_vec::<u32>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }
}
