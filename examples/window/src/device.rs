//! The device that the window and the engine share.

use std::sync::{Arc, Mutex, PoisonError};

use eframe::egui_wgpu::{WgpuConfiguration, WgpuSetupCreateNew};
use eframe::wgpu;
use wgrad::Gpu;

/// How the window opens its device: as the engine would.
pub fn configuration() -> WgpuConfiguration {
    let mut setup = WgpuSetupCreateNew::without_display_handle();
    setup.device_descriptor = Arc::new(|adapter| {
        let (required_features, required_limits) = Gpu::wanted(adapter);
        wgpu::DeviceDescriptor { label: Some("window"), required_features, required_limits, ..Default::default() }
    });
    // Too little memory is an error then, before the system starts to swap.
    setup.instance_descriptor.memory_budget_thresholds.for_resource_creation = Some(95);
    WgpuConfiguration { wgpu_setup: setup.into(), ..Default::default() }
}

/// What has gone wrong with the device outside of the engine's calls. wgpu tells it on any thread.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Troubles>>);

#[derive(Debug, Default)]
struct Troubles {
    lost: Option<String>,
    error: Option<String>,
}

impl Health {
    /// Listens to the device. Without this, wgpu ends the program at an error of the window's own drawing.
    pub fn watch(device: &wgpu::Device) -> Self {
        let health = Health::default();
        let told = health.clone();
        device.set_device_lost_callback(move |_, why| told.set(|troubles| &mut troubles.lost, why));
        let told = health.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            told.set(|troubles| &mut troubles.error, error.to_string());
        }));
        health
    }

    /// Notes the first of its kind; others follow from it.
    fn set(&self, place: impl FnOnce(&mut Troubles) -> &mut Option<String>, what: String) {
        place(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)).get_or_insert(what);
    }

    /// Why the device is lost, if it is.
    pub fn lost(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lost.clone()
    }

    /// An error that nobody has been told of.
    pub fn take_error(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).error.take()
    }
}
