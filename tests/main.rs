//! The one integration-test binary: a module for each concern.

mod common;
mod kernels;
