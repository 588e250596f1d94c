//! Spoilt files for every reader: as many as one wants, each made again by its number.
//!
//!     cargo bench --bench fuzz -- --inputs 1000000
//!     cargo bench --bench fuzz -- --reader photos --seed 3 --first 4711 --inputs 1 --keep DIR
//!
//! With `--config 'profile.bench.package.wgrad.overflow-checks=true'` in front of `--bench`, sums that overflow are found too. A table
//! tells the inputs by reader; the exit code is 1 if something was found, nothing was tried, or a reader read none of a thousand inputs. `tests/hostile/readers/` has
//! the readers.

#[path = "../../tests/allocation.rs"]
mod allocation;
#[path = "../../tests/hostile/readers/mod.rs"]
mod readers;
#[path = "../common/report.rs"]
mod report;

mod shared;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;

use readers::{Input, Reader};

#[derive(Parser)]
#[command(about = "Spoilt files for every reader")]
struct Args {
    /// Readers, by a part of their names; without, all.
    #[arg(long)]
    reader: Vec<String>,
    /// Inputs: of all readers together, or where some are named of each.
    #[arg(long, default_value_t = 100_000)]
    inputs: u64,
    /// Other inputs.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of the first input of each reader.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Folder for the files that something is found with.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Findings after which a reader's inputs end.
    #[arg(long, default_value_t = 20)]
    findings: usize,
    /// Writes the table there.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A line of the table.
#[derive(Serialize)]
struct Line {
    reader: &'static str,
    inputs: u64,
    read: u64,
    found: usize,
    seconds: u64,
}

/// Of so many inputs of a reader one at least is read, or what comes behind the reading is not tried: of every reader some in a
/// hundred are.
const ENOUGH: u64 = 1000;

/// An input that takes longer, in seconds, ends the program.
const HANGS: u64 = 60;

/// Ends the program if the number of inputs stands still: its input is told, which nothing else could.
fn watch(done: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut before = u64::MAX;
        loop {
            let now = done.load(Ordering::Relaxed);
            if now == before {
                eprintln!("input {now} does not end");
                std::process::exit(3);
            }
            before = now;
            std::thread::sleep(Duration::from_secs(HANGS));
        }
    });
}

/// Tries a reader.
fn attempt(reader: &Reader, args: &Args, inputs: u64, number: &AtomicU64) -> Result<Line> {
    let mut line = Line { reader: reader.name, inputs: 0, read: 0, found: 0, seconds: 0 };
    for n in args.first..args.first + inputs {
        number.store(n, Ordering::Relaxed);
        let input = reader.input(args.seed, n);
        line.inputs += 1;
        match reader.check(&input) {
            Ok(was_read) => line.read += u64::from(was_read),
            Err(fault) => {
                line.found += 1;
                println!("{}, --seed {} --first {n}: {fault}", reader.name, args.seed);
                keep(args, n, &input)?;
            }
        }
        if line.found >= args.findings {
            break;
        }
    }
    Ok(line)
}

/// Writes a file that something was found with, if that is asked for.
fn keep(args: &Args, number: u64, input: &Input) -> Result<()> {
    let Some(folder) = &args.keep else { return Ok(()) };
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{}-{number}-{}", args.seed, input.name));
    fs::write(&path, &input.bytes).with_context(|| format!("writing {}", path.display()))
}

fn main() -> Result<()> {
    let args: Args = report::arguments();
    let number = Arc::new(AtomicU64::new(0));
    watch(number.clone());
    let is_asked =
        |reader: &Reader| args.reader.is_empty() || args.reader.iter().any(|part| reader.name.contains(part));
    let readers = readers::all();
    for part in &args.reader {
        ensure!(readers.iter().any(|reader| reader.name.contains(part)), "no reader has {part} in its name");
    }
    let mut lines = Vec::new();
    for reader in readers.iter().filter(|reader| is_asked(reader)) {
        let inputs = if args.reader.is_empty() { reader.share_of(args.inputs, &readers) } else { args.inputs };
        let start = Instant::now();
        let line = attempt(reader, &args, inputs, &number)?;
        let line = Line { seconds: start.elapsed().as_secs(), ..line };
        eprintln!("{}", serde_json::to_string(&line)?);
        lines.push(line);
    }
    let mut table = report::table(&["reader", "inputs", "read", "found", "seconds"], 1);
    for Line { reader, inputs, read, found, seconds } in &lines {
        table.add_row([*reader, &inputs.to_string(), &read.to_string(), &found.to_string(), &seconds.to_string()]);
    }
    println!("{table}");
    report::write_json(args.json.as_deref(), &lines)?;
    let found: usize = lines.iter().map(|line| line.found).sum();
    ensure!(found == 0, "{found} found");
    ensure!(lines.iter().any(|line| line.inputs > 0), "{} inputs are too few for any reader to have one", args.inputs);
    let unread = lines.iter().find(|line| line.inputs >= ENOUGH && line.read == 0);
    ensure!(unread.is_none(), "{}: none of its inputs are read", unread.map_or("", |line| line.reader));
    Ok(())
}
