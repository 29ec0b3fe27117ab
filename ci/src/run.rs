// SPDX-License-Identifier: GPL-2.0-or-later

//! Running other programs: quietly into a log, with one line of progress.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::error::{At, Error, Result};
use crate::progress::{self, Progress};
use crate::stamp::make_dir;

/// How much of a failed step's log is shown.
const TAIL: usize = 20;
/// Where its lines are cut: a linker's command has thousands of characters.
const WIDTH: usize = 160;

/// A program that runs as a named step.
pub(crate) struct Step<'a> {
    /// What the step does, in a few words.
    pub(crate) name: &'a str,
    /// Where all of its output goes.
    pub(crate) log: PathBuf,
    /// What to do when it fails.
    pub(crate) todo: &'a str,
}

impl Step<'_> {
    /// Runs the command to its end; its output goes to the log only.
    ///
    /// # Errors
    /// When it cannot start or does not succeed; the end of its log is printed then.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        self.run_lines(command, &mut |_| {})
    }

    /// The same for a step that is too short to be mentioned when all is well.
    pub(crate) fn run_quietly(&self, command: &mut Command) -> Result<()> {
        let mut last = String::new();
        let status = stream(command, &self.log, &mut |line| line.clone_into(&mut last))?;
        if status.success() {
            return Ok(());
        }
        let what = format!(
            "{} failed ({last}), log in {}",
            self.name,
            self.log.display()
        );
        Err(Error::new(what, self.todo))
    }

    /// The same, and shows each line of output to `seen` as it comes.
    pub(crate) fn run_lines(
        &self,
        command: &mut Command,
        seen: &mut dyn FnMut(&str),
    ) -> Result<()> {
        self.run_side_by_side(std::slice::from_mut(command), seen)
    }

    /// The same for several commands at the same time; those behind the first have logs of their
    /// own, with a number in the name.
    pub(crate) fn run_side_by_side(
        &self,
        commands: &mut [Command],
        seen: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut progress = Progress::new(self.name);
        let mut tails = vec![VecDeque::with_capacity(TAIL); commands.len()];
        let (tell, told) = mpsc::channel();
        let ends: Vec<_> = thread::scope(|scope| {
            let start = |(at, command)| {
                let (tell, log) = (tell.clone(), self.log_of(at));
                scope.spawn(move || {
                    // Nobody listens only where this thread's fellow has panicked.
                    let mut line_came = |line: &str| drop(tell.send((at, line.to_owned())));
                    stream(command, &log, &mut line_came)
                })
            };
            let running: Vec<_> = commands.iter_mut().enumerate().map(start).collect();
            drop(tell);
            for (at, line) in told {
                progress.line(&line);
                seen(&line);
                add_to_tail(&mut tails[at], &line);
            }
            let end = |it: thread::ScopedJoinHandle<'_, _>| {
                it.join().unwrap_or_else(|p| resume_unwind(p))
            };
            running.into_iter().map(end).collect()
        });
        let mut failure = Ok(());
        for (at, end) in ends.into_iter().enumerate() {
            let status: ExitStatus = end?;
            if !status.success() && failure.is_ok() {
                failure = Err((at, status));
            }
        }
        let Err((at, status)) = failure else {
            progress.end("done");
            return Ok(());
        };
        progress.end("failed");
        for line in &tails[at] {
            eprintln!("    {line}");
        }
        let log = self.log_of(at);
        let what = format!("{} failed ({status}), log in {}", self.name, log.display());
        Err(Error::new(what, self.todo))
    }

    /// The log of a command that runs beside others.
    fn log_of(&self, at: usize) -> PathBuf {
        let mut name = self.log.clone().into_os_string();
        if at > 0 {
            name.push(format!("-{}", at + 1));
        }
        name.into()
    }
}

/// Keeps the last lines of a command, as they are shown when it fails.
fn add_to_tail(tail: &mut VecDeque<String>, line: &str) {
    // What else ninja ran beside the failed command only hides its message.
    if progress::ninja(line).is_some() {
        return;
    }
    if tail.len() == TAIL {
        tail.pop_front();
    }
    tail.push_back(line.chars().take(WIDTH).collect());
}

/// Runs a command with both outputs going to `log` and to `seen`, a line at a time.
pub(crate) fn stream(
    command: &mut Command,
    log: &Path,
    seen: &mut dyn FnMut(&str),
) -> Result<ExitStatus> {
    if let Some(dir) = log.parent() {
        make_dir(dir)?;
    }
    let mut file = File::create(log).at("create", log)?;
    writeln!(file, "$ {}", shown(command)).at("write", log)?;
    let (reader, writer) = std::io::pipe().at("make a pipe for", log)?;
    let errors = writer.try_clone().at("make a pipe for", log)?;
    command.stdin(Stdio::null()).stdout(writer).stderr(errors);
    let mut child = command
        .spawn()
        .map_err(|error| cannot_start(command, &error))?;
    // The command holds the writing ends; the reader sees the end only when they are closed.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.at("read the output for", log)?;
        let line = String::from_utf8_lossy(&line);
        writeln!(file, "{line}").at("write", log)?;
        seen(line.trim_end());
    }
    child.wait().at("wait for the command of", log)
}

/// Runs a command and gives its standard output.
///
/// # Errors
/// When it cannot start or does not succeed; the line holds its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| cannot_start(command, &error))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&out.stderr);
    let last = errors
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    let what = format!("`{}` failed: {last}", shown(command));
    Err(Error::new(what, "see its message and run this again"))
}

/// Whether a command succeeds; it says nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy();
    Error::new(
        format!("cannot start {program}: {error}"),
        "install it and run this again",
    )
}

/// The command as one would type it, without quoting.
fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_a_step_is_seen_and_logged() {
        let log = std::env::temp_dir().join(format!("xtask-run-{}.log", std::process::id()));
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let status = stream(&mut command, &log, &mut |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(lines, ["one", "two"]);
        assert!(
            std::fs::read_to_string(&log)
                .unwrap()
                .ends_with("one\ntwo\n")
        );
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn commands_beside_each_other_all_run_and_a_failure_is_seen() {
        let name = format!("xtask-beside-{}.log", std::process::id());
        let step = Step {
            name: "some",
            log: std::env::temp_dir().join(name),
            todo: "see its log",
        };
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let mut lines = Vec::new();
        let mut commands = [
            shell("echo one"),
            shell("echo two; exit 3"),
            shell("echo three"),
        ];
        let result = step.run_side_by_side(&mut commands, &mut |line| lines.push(line.to_owned()));
        lines.sort();
        assert_eq!(lines, ["one", "three", "two"]);
        let said = result.unwrap_err().to_string();
        assert!(said.contains(".log-2"), "{said}");
        for at in 0..commands.len() {
            std::fs::remove_file(step.log_of(at)).unwrap();
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("cannot start no-such-program-here")
        );
    }
}
