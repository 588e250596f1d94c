//! Kernels in the languages that drivers take, as wgpu has naga write them for this crate's modules: without checks, and with the
//! bindings in the places that wgpu's backends give them. Without a GPU, for tests and benches.

use naga::back::{glsl, hlsl, msl};
use naga::{ResourceBinding, ShaderStage};
use wgrad::gpu::{Access, Kernel};

use crate::lowered::{Lowered, UNCHECKED, needs_f16, needs_matrix_units};

/// A language, in a version that some driver may want.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Of Vulkan 1.0 to 1.3.
    SpirV(u8, u8),
    Metal(u8, u8),
    /// Of DX12: 5.1 is FXC's, what is above DXC's.
    Hlsl(hlsl::ShaderModel),
    /// GLSL of OpenGL ES 3.1.
    Gles,
}

/// A kernel in some language.
pub struct Written {
    pub text: Vec<u8>,
    /// What naga calls the entry point.
    pub entry: String,
}

/// The place of `Params`.
const PARAMS: ResourceBinding = ResourceBinding { group: 1, binding: 0 };

impl Target {
    /// What a device that takes the language does not have and the kernel needs, so that it is never given it.
    pub fn lacks(self, kernel: &Kernel) -> Option<&'static str> {
        use hlsl::ShaderModel;
        // Matrix units come with SPIR-V 1.3 and with Metal 2.3; wgpu offers them on no other backend.
        let no_matrices =
            matches!(self, Target::SpirV(1, 0..3) | Target::Metal(2, 0..3) | Target::Hlsl(_) | Target::Gles);
        // Half precision comes with shader model 6.2, and OpenGL ES has none.
        let no_halves = matches!(self, Target::Hlsl(ShaderModel::V5_1 | ShaderModel::V6_0) | Target::Gles);
        if no_matrices && needs_matrix_units(kernel) {
            return Some("matrix units");
        }
        (no_halves && needs_f16(kernel)).then_some("f16")
    }

    /// The kernel in that language.
    pub fn write(self, lowered: &Lowered) -> Result<Written, String> {
        match self {
            Target::SpirV(major, minor) => {
                let words = lowered.spirv((major, minor))?;
                Ok(Written { text: bytemuck::cast_slice(&words).to_vec(), entry: lowered.kernel.entry.to_owned() })
            }
            Target::Metal(major, minor) => write_metal(lowered, (major, minor)),
            Target::Hlsl(shader_model) => write_hlsl(lowered, shader_model),
            Target::Gles => write_gles(lowered),
        }
    }
}

fn stage(lowered: &Lowered) -> (ShaderStage, String) {
    (ShaderStage::Compute, lowered.kernel.entry.to_owned())
}

/// The kernel's storage bindings.
fn storage(kernel: &Kernel) -> impl Iterator<Item = (ResourceBinding, Access)> {
    (0..).zip(kernel.bindings).map(|(binding, access)| (ResourceBinding { group: 0, binding }, *access))
}

fn write_metal(lowered: &Lowered, lang_version: (u8, u8)) -> Result<Written, String> {
    let place = |slot: usize, mutable| msl::BindTarget { buffer: Some(slot as u8), mutable, ..Default::default() };
    let mut resources = msl::EntryPointResources::default();
    for (slot, (binding, access)) in storage(lowered.kernel).enumerate() {
        resources.resources.insert(binding, place(slot, access == Access::Write));
    }
    let params = lowered.kernel.bindings.len();
    resources.resources.insert(PARAMS, place(params, false));
    resources.sizes_buffer = Some(params as u8 + 1);
    let options = msl::Options {
        lang_version,
        per_entry_point_map: [(lowered.kernel.entry.to_owned(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: UNCHECKED,
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions { entry_point: Some(stage(lowered)), ..Default::default() };
    let written = msl::write_string(&lowered.module, &lowered.info, &options, &pipeline);
    let (text, mut names) = written.map_err(|e| e.to_string())?;
    let entry = names.entry_point_names.pop().ok_or("no entry point")?.map_err(|e| e.to_string())?;
    Ok(Written { text: text.into_bytes(), entry })
}

fn write_hlsl(lowered: &Lowered, shader_model: hlsl::ShaderModel) -> Result<Written, String> {
    let place = |register| hlsl::BindTarget { register, ..Default::default() };
    let mut options = hlsl::Options {
        shader_model,
        fake_missing_bindings: false,
        // By which shaders learn of the number of workgroups.
        special_constants_binding: Some(place(1)),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    options.binding_map.insert(PARAMS, place(0));
    let (mut reads, mut writes) = (0.., 0..);
    for (binding, access) in storage(lowered.kernel) {
        let register = if access == Access::Write { writes.next() } else { reads.next() };
        options.binding_map.insert(binding, place(register.unwrap_or_default()));
    }
    let pipeline = hlsl::PipelineOptions { entry_point: Some(stage(lowered)) };
    let mut text = String::new();
    let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(&lowered.module, &lowered.info, None);
    let mut names = written.map_err(|e| e.to_string())?;
    let entry = names.entry_point_names.pop().ok_or("no entry point")?.map_err(|e| e.to_string())?;
    Ok(Written { text: text.into_bytes(), entry })
}

fn write_gles(lowered: &Lowered) -> Result<Written, String> {
    let mut options = glsl::Options {
        version: glsl::Version::Embedded { version: 310, is_webgl: false },
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    options.binding_map.insert(PARAMS, 0);
    options.binding_map.extend((0..).zip(storage(lowered.kernel)).map(|(slot, (binding, _))| (binding, slot)));
    let (shader_stage, entry_point) = stage(lowered);
    let pipeline = glsl::PipelineOptions { shader_stage, entry_point, multiview: None };
    let mut text = String::new();
    let writer = glsl::Writer::new(&mut text, &lowered.module, &lowered.info, &options, &pipeline, UNCHECKED);
    writer.and_then(|mut writer| writer.write()).map_err(|e| e.to_string())?;
    // GLSL has one entry point, of this name.
    Ok(Written { text: text.into_bytes(), entry: "main".to_owned() })
}
