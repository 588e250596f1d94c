//! What a Vulkan driver's compiler makes of the kernels: registers, spills, workgroup memory and whatever else it tells.
//! Nothing is run, so that a driver without its GPU will do. Mesa before 26 has such a one for AMD's:
//!
//!     RADV_FORCE_FAMILY=navi31 cargo bench --bench codegen -- matmul_tile flash_group [--dir DIR] [--json FILE]
//!
//! The driver must have `VK_KHR_pipeline_executable_properties`, as those of Mesa for GPUs and NVIDIA's do. The names of the
//! statistics are its own.

#[path = "../../tests/lowered.rs"]
mod lowered;
#[path = "../common/report.rs"]
mod report;
mod vulkan;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use serde::Serialize;

use lowered::{Lowered, all_kernels, needs_f16, needs_matrix_units};
use vulkan::{Compiled, Device};

#[derive(Parser)]
#[command(about = "What a Vulkan driver's compiler makes of the kernels")]
struct Args {
    /// Kernels, by a part of their names; without, all.
    kernels: Vec<String>,
    /// Number of the device in the driver's list.
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Columns of the table, by the driver's names; without, those of interest that it has.
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// Writes the compiler's texts there, the assembly among them.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes all statistics there.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is looked at first, as RADV, NVK, ANV and NVIDIA name it.
const OF_INTEREST: [&str; 18] = [
    "VGPRs",
    "Spilled VGPRs",
    "Number of GPRs",
    "Register Count",
    "Max live registers",
    "Spill Count",
    "Fill Count",
    "Spills to memory",
    "Fills from memory",
    "Scratch size",
    "Scratch Memory Size",
    "Stack Size",
    "LDS size",
    "Workgroup Memory Size",
    "Subgroups per SIMD",
    "Instructions",
    "Instruction Count",
    "Latency",
];

#[derive(Serialize)]
struct Line {
    kernel: &'static str,
    statistics: Vec<(String, String)>,
}

fn main() -> Result<()> {
    let args: Args = report::arguments();
    let device = Device::open(args.device)?;
    println!("{}\n", device.name);
    let asked = |name: &str| args.kernels.is_empty() || args.kernels.iter().any(|part| name.contains(part));
    let kernels: Vec<_> = all_kernels().into_iter().filter(|kernel| asked(kernel.name)).collect();
    for part in &args.kernels {
        ensure!(kernels.iter().any(|kernel| kernel.name.contains(part)), "no kernel has {part} in its name");
    }
    let mut lines = Vec::new();
    for kernel in kernels {
        let lowered = Lowered::new(kernel).map_err(|e| anyhow!("{}: {e}", kernel.name))?;
        if (needs_f16(kernel) && !device.has_f16) || (needs_matrix_units(kernel) && !device.has_matrices) {
            continue;
        }
        let words = lowered.spirv((1, 3)).map_err(|e| anyhow!("{}: {e}", kernel.name))?;
        let compiled = device.compile(kernel, &words).with_context(|| kernel.name)?;
        if let Some(dir) = &args.dir {
            write_texts(dir, kernel.name, &compiled)?;
        }
        lines.push(Line { kernel: kernel.name, statistics: compiled.statistics });
    }
    ensure!(!lines.is_empty(), "the device has not what these kernels need: half precision, or matrix units");
    print_table(&lines, &args.columns);
    report::write_json(args.json.as_deref(), &lines)
}

fn write_texts(dir: &Path, kernel: &str, compiled: &Compiled) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    for (name, text) in &compiled.texts {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let path = dir.join(format!("{kernel}.{name}.txt"));
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn print_table(lines: &[Line], asked: &[String]) {
    let Some(first) = lines.first() else { return };
    let wanted = |name: &str| match asked {
        [] => OF_INTEREST.contains(&name),
        names => names.iter().any(|asked| asked == name),
    };
    let columns: Vec<&str> = first.statistics.iter().map(|(name, _)| name.as_str()).filter(|n| wanted(n)).collect();
    let mut table = report::table(&[&["kernel"], &columns[..]].concat(), 1);
    for line in lines {
        let value = |column: &&str| {
            let found = line.statistics.iter().find(|(name, _)| name == column);
            found.map_or_else(String::new, |(_, value)| value.clone())
        };
        table.add_row([line.kernel.to_owned()].into_iter().chain(columns.iter().map(value)));
    }
    println!("{table}");
}
