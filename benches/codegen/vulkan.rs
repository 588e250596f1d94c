//! Vulkan, as far as compiling a compute pipeline and asking what came of it needs it.
//!
//! The program ends soon, so nothing is destroyed.

use std::ffi::{CStr, CString, c_char};

use anyhow::{Context, Result, ensure};
use ash::{khr, vk};
use wgrad::gpu::Kernel;

/// What the compiler tells of a kernel.
pub struct Compiled {
    /// Names and values, in the driver's order.
    pub statistics: Vec<(String, String)>,
    /// Names and texts: intermediate forms and the assembly, where the driver shows them.
    pub texts: Vec<(String, Vec<u8>)>,
}

/// A device that compiles.
pub struct Device {
    pub name: String,
    pub has_f16: bool,
    pub has_matrices: bool,
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    /// The library must outlive what was loaded from it.
    _entry: ash::Entry,
}

impl Device {
    /// The device with this number in the loader's list.
    pub fn open(number: usize) -> Result<Device> {
        // SAFETY: the loader found on this system is trusted.
        let entry = unsafe { ash::Entry::load() }.context("no Vulkan loader")?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: `create` is whole, and `entry` is kept.
        let instance = unsafe { entry.create_instance(&create, None) }?;
        // SAFETY: the instance is alive.
        let devices = unsafe { instance.enumerate_physical_devices() }?;
        let physical = *devices.get(number).context("there is no device of this number")?;
        // SAFETY: `physical` is of this instance.
        let properties = unsafe { instance.get_physical_device_properties(physical) };
        let name = properties.device_name_as_c_str()?.to_string_lossy().into_owned();
        // SAFETY: as above.
        let extensions = unsafe { instance.enumerate_device_extension_properties(physical) }?;
        let has = |name: &CStr| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
        let statistics = khr::pipeline_executable_properties::NAME;
        ensure!(has(statistics), "{name} tells nothing of its pipelines ({})", statistics.to_string_lossy());
        let has_matrices = has(khr::cooperative_matrix::NAME);
        let (device, has_f16) = open_logical(&instance, physical, has_matrices)?;
        let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
        Ok(Device { name, has_f16, has_matrices, device, executables, _entry: entry })
    }

    /// Compiles a kernel from its SPIR-V.
    pub fn compile(&self, kernel: &Kernel, words: &[u32]) -> Result<Compiled> {
        let create = vk::ShaderModuleCreateInfo::default().code(words);
        // SAFETY: naga has validated the module.
        let module = unsafe { self.device.create_shader_module(&create, None) }?;
        let buffers = vec![vk::DescriptorType::STORAGE_BUFFER; kernel.bindings.len()];
        let sets = [self.set_layout(&buffers)?, self.set_layout(&[vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC])?];
        let create = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
        // SAFETY: the sets are of this device.
        let layout = unsafe { self.device.create_pipeline_layout(&create, None) }?;
        let entry = CString::new(kernel.entry)?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(&entry);
        let flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
            | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
        let create = vk::ComputePipelineCreateInfo::default().layout(layout).stage(stage).flags(flags);
        // SAFETY: module and layout fit each other, as tests/shaders.rs checks, and are of this device.
        let pipelines = unsafe { self.device.create_compute_pipelines(vk::PipelineCache::null(), &[create], None) };
        let pipelines = pipelines.map_err(|(_, error)| error)?;
        let pipeline = *pipelines.first().context("no pipeline")?;
        Ok(Compiled { statistics: self.statistics(pipeline)?, texts: self.texts(pipeline)? })
    }

    fn set_layout(&self, types: &[vk::DescriptorType]) -> Result<vk::DescriptorSetLayout> {
        let binding = |(number, &kind): (usize, &vk::DescriptorType)| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(number as u32)
                .descriptor_type(kind)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = types.iter().enumerate().map(binding).collect();
        let create = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: `create` is whole.
        Ok(unsafe { self.device.create_descriptor_set_layout(&create, None) }?)
    }

    fn statistics(&self, pipeline: vk::Pipeline) -> Result<Vec<(String, String)>> {
        let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline was made with leave to ask for statistics.
        let found = unsafe { self.executables.get_pipeline_executable_statistics(&executable) }?;
        Ok(found.iter().map(|statistic| (text(&statistic.name), value(statistic))).collect())
    }

    /// The extension's second list. Each text is asked for twice: for its size, then for itself.
    fn texts(&self, pipeline: vk::Pipeline) -> Result<Vec<(String, Vec<u8>)>> {
        let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        let handle = self.device.handle();
        let mut count = 0;
        // SAFETY: without a place for them, only their number is written.
        unsafe { get(handle, &executable, &mut count, std::ptr::null_mut()) }.result()?;
        let mut found = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
        // SAFETY: there is a place for `count`; texts without a place only get their size.
        unsafe { get(handle, &executable, &mut count, found.as_mut_ptr()) }.result()?;
        let mut bytes: Vec<Vec<u8>> = found.iter().map(|one| vec![0; one.data_size]).collect();
        for (one, bytes) in found.iter_mut().zip(&mut bytes) {
            one.p_data = bytes.as_mut_ptr().cast();
        }
        // SAFETY: each text has a place of the size that it was said to have.
        unsafe { get(handle, &executable, &mut count, found.as_mut_ptr()) }.result()?;
        Ok(found.iter().map(|one| text(&one.name)).zip(bytes).collect())
    }
}

/// A device with what the kernels may use, and whether half precision is in it.
fn open_logical(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    has_matrices: bool,
) -> Result<(ash::Device, bool)> {
    let mut storage = vk::PhysicalDevice16BitStorageFeatures::default();
    let mut halves = vk::PhysicalDeviceShaderFloat16Int8Features::default();
    let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut storage).push_next(&mut halves);
    // SAFETY: `physical` is of this instance, and the chain is whole.
    unsafe { instance.get_physical_device_features2(physical, &mut features) };
    let has_f16 = storage.storage_buffer16_bit_access != 0 && halves.shader_float16 != 0;

    let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
    let mut names = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
    let mut executables =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    let mut storage = vk::PhysicalDevice16BitStorageFeatures::default().storage_buffer16_bit_access(has_f16);
    let mut halves = vk::PhysicalDeviceShaderFloat16Int8Features::default().shader_float16(has_f16);
    let mut memory = vk::PhysicalDeviceVulkanMemoryModelFeatures::default().vulkan_memory_model(has_matrices);
    let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
    if has_matrices {
        names.push(khr::cooperative_matrix::NAME.as_ptr());
    }
    let create = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .push_next(&mut executables)
        .push_next(&mut storage)
        .push_next(&mut halves)
        .push_next(&mut memory);
    let create = if has_matrices { create.push_next(&mut matrices) } else { create };
    // SAFETY: only what the device was found to have is asked for.
    Ok((unsafe { instance.create_device(physical, &create, None) }?, has_f16))
}

fn text(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn value(statistic: &vk::PipelineExecutableStatisticKHR<'_>) -> String {
    use vk::PipelineExecutableStatisticFormatKHR as Format;
    let value = statistic.value;
    match statistic.format {
        // SAFETY: the format says which field is written; so below.
        Format::BOOL32 => (unsafe { value.b32 } != 0).to_string(),
        // SAFETY: see above.
        Format::INT64 => unsafe { value.i64 }.to_string(),
        // SAFETY: see above.
        Format::UINT64 => unsafe { value.u64 }.to_string(),
        // SAFETY: see above.
        Format::FLOAT64 => format!("{:.2}", unsafe { value.f64 }),
        other => format!("{other:?}"),
    }
}
