//! Compilers as programs beside this one, and a memory of what they said.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::report;

/// What a compiler says of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub taken: bool,
    pub milliseconds: u64,
    pub message: String,
}

/// The compilers that are here.
pub struct Compilers {
    dir: PathBuf,
    spirv_val: Option<Program>,
    glslang: Option<Program>,
    hlsl: Option<Program>,
    tint: Option<Program>,
    memory: Memory,
}

/// A program with its first arguments, and what it says of its version.
struct Program {
    words: Vec<String>,
    version: String,
}

impl Program {
    /// `None` if it does not run. Of what it says when asked for its version, so many lines are one.
    fn find(words: &str, version: (&str, usize), dir: &Path) -> Option<Self> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let output = Command::new(words.first()?).args(&words[1..]).arg(version.0).current_dir(dir).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().take(version.1).map(str::trim).collect::<Vec<_>>().join(", ");
        output.status.success().then_some(Program { words, version })
    }

    fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).current_dir(dir);
        command
    }

    /// Starts the program for each file.
    fn one_by_one(&self, jobs: &[&Vec<String>], dir: &Path) -> Result<Vec<Option<Answer>>> {
        let run = |job: &&Vec<String>| {
            let start = Instant::now();
            let output = self.command(dir).args(*job).output().with_context(|| self.words[0].clone())?;
            let said = [output.stdout, output.stderr].concat();
            let message = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
            Ok(Some(Answer {
                taken: output.status.success(),
                milliseconds: start.elapsed().as_millis() as u64,
                message,
            }))
        };
        jobs.iter().map(run).collect()
    }

    /// Starts it once, and gives it a line for each file, which it answers by one.
    fn all_at_once(&self, jobs: &[&Vec<String>], dir: &Path) -> Result<Vec<Option<Answer>>> {
        let mut child = self.command(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(mut asks), Some(says)) = (child.stdin.take(), child.stdout.take()) else { bail!("no pipes") };
        let mut lines = BufReader::new(says).lines();
        let mut answers = Vec::new();
        for job in jobs {
            writeln!(asks, "{}", job.join("\t"))?;
            let line = lines.next().with_context(|| format!("no answer to {}", job[0]))??;
            let mut parts = line.splitn(3, '\t').map(str::trim);
            let (Some(verdict), Some(time), message) = (parts.next(), parts.next(), parts.next()) else {
                bail!("{}: {line}", job[0])
            };
            ensure!(["ok", "failed", "absent"].contains(&verdict), "{}: {line}", job[0]);
            let message = message.unwrap_or_default().to_owned();
            let answer = Answer { taken: verdict == "ok", milliseconds: time.parse()?, message };
            answers.push((verdict != "absent").then_some(answer));
        }
        drop(asks);
        child.wait()?;
        Ok(answers)
    }
}

impl Compilers {
    /// Those that run, with files in `dir`.
    pub fn find(dir: &Path, spirv_val: &str, hlsl: Option<&str>, tint: Option<&str>) -> Result<Self> {
        Ok(Compilers {
            dir: dir.to_owned(),
            spirv_val: Program::find(spirv_val, ("--version", 1), dir),
            glslang: Program::find("glslangValidator", ("--version", 1), dir),
            hlsl: hlsl.and_then(|words| Program::find(words, ("--versions", 2), dir)),
            tint: tint.and_then(|words| Program::find(words, ("--versions", 2), dir)),
            memory: Memory::open(&dir.join("answers.json"))?,
        })
    }

    /// What they are.
    pub fn versions(&self) -> Vec<&str> {
        let all = [&self.spirv_val, &self.glslang, &self.hlsl, &self.tint];
        all.into_iter().flatten().map(|program| program.version.as_str()).collect()
    }

    /// A validator older than an extension knows nothing of it, and has not been asked.
    pub fn spirv_val(&mut self, jobs: &[Vec<String>]) -> Result<Vec<Option<Answer>>> {
        let answers = self.memory.ask(self.spirv_val.as_ref(), jobs, &self.dir, Program::one_by_one)?;
        let knows = |answer: &Answer| !answer.message.contains("Invalid capability operand");
        Ok(answers.into_iter().map(|answer| answer.filter(knows)).collect())
    }

    pub fn glslang(&mut self, jobs: &[Vec<String>]) -> Result<Vec<Option<Answer>>> {
        self.memory.ask(self.glslang.as_ref(), jobs, &self.dir, Program::one_by_one)
    }

    pub fn hlsl(&mut self, jobs: &[Vec<String>]) -> Result<Vec<Option<Answer>>> {
        self.memory.ask(self.hlsl.as_ref(), jobs, &self.dir, Program::all_at_once)
    }

    pub fn tint(&mut self, jobs: &[Vec<String>]) -> Result<Vec<Option<Answer>>> {
        self.memory.ask(self.tint.as_ref(), jobs, &self.dir, Program::all_at_once)
    }
}

type Run = fn(&Program, &[&Vec<String>], &Path) -> Result<Vec<Option<Answer>>>;

/// Files that are asked about before the answers are written down: some take a minute each.
const AT_A_TIME: usize = 20;

/// Answers to files that have not changed since.
struct Memory {
    path: PathBuf,
    answers: BTreeMap<String, Answer>,
}

impl Memory {
    fn open(path: &Path) -> Result<Self> {
        let answers = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?,
            Err(_) => BTreeMap::new(),
        };
        Ok(Memory { path: path.to_owned(), answers })
    }

    /// Asks of what it does not remember. Nothing is known without the program.
    fn ask(
        &mut self,
        program: Option<&Program>,
        jobs: &[Vec<String>],
        dir: &Path,
        run: Run,
    ) -> Result<Vec<Option<Answer>>> {
        let Some(program) = program else { return Ok(vec![None; jobs.len()]) };
        let keys: Vec<_> = jobs.iter().map(|job| key(program, job, dir)).collect::<Result<_>>()?;
        let new: Vec<_> = jobs.iter().zip(&keys).filter(|(_, key)| !self.answers.contains_key(*key)).collect();
        for some in new.chunks(AT_A_TIME) {
            let answers = run(program, &some.iter().map(|(job, _)| *job).collect::<Vec<_>>(), dir)?;
            let answers = some.iter().map(|(_, key)| (*key).clone()).zip(answers);
            self.answers.extend(answers.filter_map(|(key, answer)| Some((key, answer?))));
            report::write_json(Some(&self.path), &self.answers)?;
        }
        Ok(keys.iter().map(|key| self.answers.get(key).cloned()).collect())
    }
}

/// What an answer depends on: the compiler, what it is asked, the file's contents.
fn key(program: &Program, job: &[String], dir: &Path) -> Result<String> {
    let file = job.iter().map(|word| dir.join(word)).find(|path| path.is_file());
    let path = file.with_context(|| format!("no file in {job:?}"))?;
    Ok(format!("{}: {} {:08x}", program.version, job.join(" "), crc32c::crc32c(&std::fs::read(path)?)))
}
