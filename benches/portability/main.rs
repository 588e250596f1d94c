//! Every kernel in every language that a driver may want, before the vendors' own compilers. The table is that of
//! docs/portability.md. Nothing is run, so that no GPU is needed; `.ci/portability` finds the compilers and calls this:
//!
//!     cargo bench --bench portability -- --dir DIR [--hlsl "wine hlsl.exe"] [--tint "node dawn.mjs FOLDER"] [--write] [KERNEL...]
//!
//! A cell that differs from the page's, or a compiler that refuses a kernel, is an error.

mod columns;
mod compilers;
#[path = "../../tests/lowered.rs"]
mod lowered;
mod page;
#[path = "../common/report.rs"]
mod report;
#[path = "../../tests/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;

use columns::{COLUMNS, Cell};
use compilers::Compilers;
use lowered::{Lowered, all_kernels};
use page::Row;

#[derive(Parser)]
#[command(about = "What the vendors' compilers say of every kernel")]
struct Args {
    /// Takes the kernels as files, and remembers answers from one time to the next.
    #[arg(long)]
    dir: PathBuf,
    /// Khronos's validator of SPIR-V.
    #[arg(long, default_value = "spirv-val")]
    spirv_val: String,
    /// Microsoft's compilers: a program that reads lines FILE, ENTRY, PROFILE and answers each (benches/portability/hlsl.cpp).
    #[arg(long)]
    hlsl: Option<String>,
    /// Dawn's: the same with the values of overrides for the profile (benches/portability/dawn.mjs).
    #[arg(long)]
    tint: Option<String>,
    /// Writes the table into docs/portability.md, which takes all compilers, instead of comparing.
    #[arg(long, conflicts_with = "kernels")]
    write: bool,
    /// Parts of the names of kernels to ask about [default: all].
    kernels: Vec<String>,
}

fn main() -> Result<()> {
    let args: Args = report::arguments();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/portability.md");
    std::fs::create_dir_all(&args.dir).with_context(|| format!("creating {}", args.dir.display()))?;
    let mut compilers = Compilers::find(&args.dir, &args.spirv_val, args.hlsl.as_deref(), args.tint.as_deref())?;
    let is_asked = |name: &str| args.kernels.is_empty() || args.kernels.iter().any(|part| name.contains(part));
    let lower = |kernel| Lowered::new(kernel).map_err(|e| anyhow!("{e}"));
    let kernels = all_kernels().into_iter().filter(|kernel| is_asked(kernel.name));
    let kernels: Vec<_> = kernels.map(lower).collect::<Result<_>>()?;
    ensure!(!kernels.is_empty(), "no kernel has {} in its name", args.kernels.join(" or "));
    let mut rows: Vec<_> = kernels.iter().map(|k| Row { kernel: k.kernel, cells: Vec::new() }).collect();
    for column in &COLUMNS {
        let cells = column.fill(&kernels, &args.dir, &mut compilers)?;
        rows.iter_mut().zip(cells).for_each(|(row, cell)| row.cells.push(cell));
    }
    let versions = compilers.versions().join(", ");
    println!("{} kernels; {versions}\n\n{}", rows.len(), page::summary(&rows));
    if args.write {
        let missing = rows.iter().flat_map(|row| &row.cells).filter(|cell| matches!(cell, Cell::NotAsked)).count();
        ensure!(missing == 0, "{missing} cells had nobody to ask: the page is written with all compilers");
        page::write(&page, &rows, &versions)?;
    }
    let mut wrong = page::differences(&page, &rows, is_asked)?;
    for (row, i) in rows.iter().flat_map(|row| (0..COLUMNS.len()).map(move |i| (row, i))) {
        if let Cell::Refused(message) = &row.cells[i] {
            wrong.push(format!("{}, {}: {message}", row.kernel.name, COLUMNS[i].heading));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}
