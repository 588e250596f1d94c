use super::support::{assert_gradients, leaf};
use crate::common::{assert_close, each_family, values};
use wgrad::ops::{self, scale::reference::scale as scaled};

#[test]
fn scale() {
    for gpu in each_family() {
        for n in [1, 7, 65, 197, 1757] {
            let (x, dy) = (values(1, n), values(2, n));
            let tx = leaf(&gpu, &[n], &x);
            let y = ops::scale(&tx, -1.75).unwrap();
            assert_close(&format!("scale {n}"), &y.to_vec().unwrap(), &scaled(&x, -1.75), 0.0);
            assert_gradients(&format!("scale {n}"), &y, &dy, &[(&tx, &scaled(&dy, -1.75))], 0.0);
        }
    }
}
