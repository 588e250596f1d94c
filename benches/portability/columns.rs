//! The columns of the table: a language, and the compiler that is asked about it.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use naga::back::hlsl::ShaderModel;
use wgrad::gpu::joined_source;

use crate::compilers::{Answer, Compilers};
use crate::lowered::{Lowered, needs_matrix_units};
use crate::targets::Target;

/// A column.
pub struct Column {
    pub heading: &'static str,
    language: Language,
    compiler: Compiler,
}

#[derive(Clone, Copy)]
enum Language {
    /// What naga writes.
    Naga(Target),
    /// The kernel's own text, for browsers.
    Wgsl,
}

#[derive(Clone, Copy)]
enum Compiler {
    /// There is none outside its vendor's system: naga alone is asked.
    Nobody,
    /// For an environment.
    SpirvVal(&'static str),
    Glslang,
    /// For a profile.
    Hlsl(&'static str),
    Tint,
}

pub const COLUMNS: [Column; 9] = [
    column("SPIR-V 1.0", Target::SpirV(1, 0), Compiler::SpirvVal("vulkan1.0")),
    column("SPIR-V 1.6", Target::SpirV(1, 6), Compiler::SpirvVal("vulkan1.3")),
    column("MSL 2.0", Target::Metal(2, 0), Compiler::Nobody),
    column("MSL 3.0", Target::Metal(3, 0), Compiler::Nobody),
    column("HLSL 5.1, FXC", Target::Hlsl(ShaderModel::V5_1), Compiler::Hlsl("cs_5_1")),
    column("HLSL 6.0, DXC", Target::Hlsl(ShaderModel::V6_0), Compiler::Hlsl("cs_6_0")),
    column("HLSL 6.2, DXC", Target::Hlsl(ShaderModel::V6_2), Compiler::Hlsl("cs_6_2")),
    column("GLSL ES 3.1", Target::Gles, Compiler::Glslang),
    Column { heading: "WGSL, Tint", language: Language::Wgsl, compiler: Compiler::Tint },
];

const fn column(heading: &'static str, target: Target, compiler: Compiler) -> Column {
    Column { heading, language: Language::Naga(target), compiler }
}

/// What a kernel is in a column.
#[derive(Clone, Debug)]
pub enum Cell {
    /// The compiler takes it, after so many milliseconds.
    Taken(u64),
    /// naga writes it, and there is no compiler to ask.
    Written,
    /// No device with the language is given the kernel, for want of this.
    Lacks(&'static str),
    Refused(String),
    /// The compiler is not here.
    NotAsked,
}

/// A kernel as a file.
struct File {
    name: String,
    entry: String,
}

impl Column {
    /// Every kernel's cell. The files go to `dir`.
    pub fn fill(&self, kernels: &[Lowered], dir: &Path, compilers: &mut Compilers) -> Result<Vec<Cell>> {
        let files: Vec<_> = kernels.iter().map(|lowered| self.write(lowered, dir)).collect::<Result<_>>()?;
        let asked: Vec<_> =
            kernels.iter().zip(&files).filter_map(|(lowered, file)| Some((lowered, file.as_ref().ok()?))).collect();
        let mut answers = self.ask(&asked, compilers)?.into_iter();
        let cell = |file: Result<File, Cell>| match file {
            Ok(_) => answers.next().unwrap_or(Cell::NotAsked),
            Err(cell) => cell,
        };
        Ok(files.into_iter().map(cell).collect())
    }

    /// The kernel in the column's language, or the cell that tells why it is not.
    fn write(&self, lowered: &Lowered, dir: &Path) -> Result<Result<File, Cell>> {
        let kernel = lowered.kernel;
        let (text, entry, extension) = match self.language {
            Language::Wgsl if needs_matrix_units(kernel) => return Ok(Err(Cell::Lacks("matrix units"))),
            Language::Wgsl => (joined_source(kernel.sources).into_bytes(), kernel.entry.to_owned(), "wgsl".to_owned()),
            Language::Naga(target) => {
                if let Some(missing) = target.lacks(kernel) {
                    return Ok(Err(Cell::Lacks(missing)));
                }
                match target.write(lowered) {
                    Ok(written) => (written.text, written.entry, target.extension()),
                    Err(message) => return Ok(Err(Cell::Refused(format!("naga: {message}")))),
                }
            }
        };
        let name = format!("{}.{extension}", kernel.name);
        let path = dir.join(&name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(Ok(File { name, entry }))
    }

    fn ask(&self, asked: &[(&Lowered, &File)], compilers: &mut Compilers) -> Result<Vec<Cell>> {
        let named = |words: &[&str]| -> Vec<Vec<String>> {
            let words = |file: &File| words.iter().map(|word| word.replace("FILE", &file.name)).collect();
            asked.iter().map(|(_, file)| words(file)).collect()
        };
        let lines = |last: &dyn Fn(&Lowered) -> Result<String>| -> Result<Vec<Vec<String>>> {
            let line =
                |(lowered, file): &(&Lowered, &File)| Ok(vec![file.name.clone(), file.entry.clone(), last(lowered)?]);
            asked.iter().map(line).collect()
        };
        let answers = match self.compiler {
            Compiler::Nobody => return Ok(vec![Cell::Written; asked.len()]),
            Compiler::SpirvVal(environment) => compilers.spirv_val(&named(&["--target-env", environment, "FILE"]))?,
            Compiler::Glslang => compilers.glslang(&named(&["-S", "comp", "FILE"]))?,
            Compiler::Hlsl(profile) => compilers.hlsl(&lines(&|_| Ok(profile.to_owned()))?)?,
            Compiler::Tint => compilers.tint(&lines(&|lowered| constants(lowered))?)?,
        };
        let cell = |answer: Option<Answer>| match answer {
            None => Cell::NotAsked,
            Some(Answer { taken: true, milliseconds, .. }) => Cell::Taken(milliseconds),
            Some(Answer { message, .. }) => Cell::Refused(message),
        };
        Ok(answers.into_iter().map(cell).collect())
    }
}

/// A kernel's constants as WebGPU takes them.
fn constants(lowered: &Lowered) -> Result<String> {
    let named: std::collections::BTreeMap<_, _> = lowered.kernel.constants.iter().copied().collect();
    serde_json::to_string(&named).map_err(|e| anyhow!("{}: {e}", lowered.kernel.name))
}

impl Target {
    fn extension(self) -> String {
        match self {
            Target::SpirV(major, minor) => format!("{major}_{minor}.spv"),
            Target::Metal(major, minor) => format!("{major}_{minor}.metal"),
            Target::Hlsl(model) => format!("{}.hlsl", model.to_str()),
            Target::Gles => "glsl".to_owned(),
        }
    }
}
