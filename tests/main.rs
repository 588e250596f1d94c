//! The one integration-test binary: a module for each concern.

#[cfg(feature = "train")]
mod checkpoint;
mod common;
#[cfg(feature = "train")]
mod data;
mod gradcheck;
mod kernels;
mod layers;
mod ltd;
mod shaders;
