//! The one integration-test binary: a module for each concern.

#[cfg(feature = "pictures")]
mod adapters;
#[cfg(feature = "files")]
mod allocation;
#[cfg(feature = "pictures")]
mod augment;
mod autograd;
#[cfg(feature = "files")]
mod bert;
#[cfg(feature = "pictures")]
mod checkpoint;
mod circles;
mod common;
#[cfg(feature = "pictures")]
mod data;
#[cfg(feature = "pictures")]
mod deepspeed;
mod device;
#[cfg(feature = "files")]
mod extended;
#[cfg(feature = "pictures")]
mod folders;
#[cfg(feature = "files")]
mod gpt2;
mod gradcheck;
mod guest;
#[cfg(all(feature = "pictures", feature = "text"))]
mod hostile;
#[cfg(feature = "hub")]
mod hub;
mod interpret;
mod kernels;
#[cfg(all(feature = "pictures", feature = "text"))]
mod language_programs;
mod large_parameters;
mod layers;
#[cfg(feature = "files")]
mod lm;
#[cfg(feature = "pictures")]
mod loader;
#[cfg(feature = "pictures")]
mod lora;
mod lowered;
mod ltd;
mod memory;
#[cfg(feature = "pictures")]
mod mixing;
mod nn;
mod optim;
mod outside;
#[cfg(feature = "pictures")]
mod pictures;
#[cfg(feature = "pictures")]
mod predict;
#[cfg(feature = "pictures")]
mod pretrained;
#[cfg(feature = "pictures")]
mod probe;
#[cfg(feature = "pictures")]
mod programs;
#[cfg(feature = "pictures")]
mod recovery;
mod replicas;
#[cfg(feature = "pictures")]
mod resume;
mod rounds;
mod shaders;
#[cfg(feature = "pictures")]
mod shared;
mod targets;
#[cfg(feature = "files")]
mod tasks;
#[cfg(all(feature = "pictures", feature = "text"))]
mod text;
#[cfg(feature = "pictures")]
mod torch;
#[cfg(feature = "files")]
mod torch_operations;
#[cfg(feature = "train")]
mod training;
mod vectors;
#[cfg(feature = "pictures")]
mod vision;
mod vit;
