//! Floating-point operations, where a multiply-add is two and an `exp` one, and bytes read or written.

use std::iter::Sum;
use std::ops::Add;

use serde::Serialize;

/// Operations and bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    pub flops: f64,
    pub bytes: f64,
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), Add::add)
    }
}
