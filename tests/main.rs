//! The one integration-test binary: a module for each concern.

#[cfg(feature = "train")]
mod allocation;
#[cfg(feature = "train")]
mod augment;
mod autograd;
#[cfg(feature = "train")]
mod checkpoint;
mod circles;
mod common;
#[cfg(feature = "train")]
mod data;
#[cfg(feature = "train")]
mod deepspeed;
mod device;
#[cfg(feature = "train")]
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
#[cfg(feature = "train")]
mod mixing;
mod optim;
#[cfg(feature = "train")]
mod pictures;
#[cfg(feature = "train")]
mod predict;
#[cfg(feature = "train")]
mod pretrained;
#[cfg(feature = "train")]
mod programs;
#[cfg(feature = "train")]
mod resume;
mod rounds;
mod shaders;
#[cfg(feature = "train")]
mod torch;
#[cfg(feature = "train")]
mod training;
