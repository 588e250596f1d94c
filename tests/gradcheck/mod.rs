//! Every operation's gradient against central differences of its own forward pass, by [`wgrad::autograd::check`], which puts it in
//! the middle of a graph, below random coefficients, once as the first to write its inputs' gradients and once as one that adds to
//! them.

mod rows;

use crate::common::{each_family, values};
use rows::ROWS;

#[test]
fn gradients_agree_with_differences() {
    let mut failures = Vec::new();
    for gpu in each_family() {
        for row in ROWS {
            if let Err(failure) = row.check(&gpu) {
                failures.push(format!("{} ({:?}): {failure}", row.name, gpu.family()));
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
