//! The one integration-test binary: a module for each concern.

#[cfg(feature = "files")]
mod allocation;
#[cfg(feature = "files")]
mod augment;
mod autograd;
#[cfg(feature = "files")]
mod checkpoint;
mod circles;
mod common;
#[cfg(feature = "files")]
mod data;
#[cfg(feature = "files")]
mod deepspeed;
mod device;
#[cfg(feature = "files")]
mod folders;
mod gradcheck;
#[cfg(feature = "hub")]
mod hub;
mod interpret;
mod kernels;
mod layers;
mod lowered;
mod ltd;
mod memory;
#[cfg(feature = "files")]
mod mixing;
mod nn;
mod optim;
#[cfg(feature = "files")]
mod pictures;
#[cfg(feature = "files")]
mod predict;
#[cfg(feature = "files")]
mod pretrained;
#[cfg(feature = "files")]
mod programs;
#[cfg(feature = "files")]
mod resume;
mod rounds;
mod shaders;
#[cfg(feature = "files")]
mod torch;
#[cfg(feature = "files")]
mod training;
mod vit;
