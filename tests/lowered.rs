//! Kernels as naga lowers them: without a GPU, for tests and for the bench that asks drivers' compilers about them.

use naga::back::pipeline_constants::process_overrides;
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};
use wgrad::gpu::{Kernel, joined_source};

/// Every kernel of the library.
pub fn all_kernels() -> Vec<&'static Kernel> {
    // SAFETY: they are looked at, and none is dispatched.
    unsafe { wgrad::kernels() }
}

/// A kernel's module reduced to its entry point, with its constants in place.
pub struct Lowered {
    pub kernel: &'static Kernel,
    pub module: Module,
    pub info: ModuleInfo,
}

impl Lowered {
    pub fn new(kernel: &'static Kernel) -> Result<Self, String> {
        let text = joined_source(kernel.sources);
        let module = naga::front::wgsl::parse_str(&text).map_err(|e| e.emit_to_string(&text))?;
        let validate = |module: &Module| {
            let mut validator = Validator::new(ValidationFlags::all(), capabilities(kernel));
            validator.validate(module).map_err(|e| e.emit_to_string(&text))
        };
        let info = validate(&module)?;
        let constants = kernel.constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let entry = Some((ShaderStage::Compute, kernel.entry));
        let (module, _) = process_overrides(&module, &info, entry, &constants).map_err(|e| e.to_string())?;
        let module = module.into_owned();
        let info = validate(&module)?;
        Ok(Lowered { kernel, module, info })
    }

    /// SPIR-V as wgpu asks for it where shaders are trusted.
    pub fn spirv(&self, lang_version: (u8, u8)) -> Result<Vec<u32>, String> {
        let options = spv::Options {
            lang_version,
            flags: spv::WriterFlags::empty(),
            bounds_check_policies: UNCHECKED,
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            ..Default::default()
        };
        let entry =
            spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: self.kernel.entry.to_owned() };
        spv::write_vec(&self.module, &self.info, &options, Some(&entry)).map_err(|e| e.to_string())
    }
}

pub const UNCHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Unchecked,
    buffer: BoundsCheckPolicy::Unchecked,
    image_load: BoundsCheckPolicy::Unchecked,
    binding_array: BoundsCheckPolicy::Unchecked,
};

/// Whether a device must have an extension for it.
fn needs(kernel: &Kernel, extension: &str) -> bool {
    kernel.sources.iter().any(|source| source.enable() == Some(extension))
}

pub fn needs_f16(kernel: &Kernel) -> bool {
    needs(kernel, "f16")
}

pub fn needs_matrix_units(kernel: &Kernel) -> bool {
    needs(kernel, "wgpu_cooperative_matrix")
}

fn capabilities(kernel: &Kernel) -> Capabilities {
    let mut all = Capabilities::empty();
    all.set(Capabilities::SHADER_FLOAT16, needs_f16(kernel));
    all.set(Capabilities::COOPERATIVE_MATRIX, needs_matrix_units(kernel));
    all
}
