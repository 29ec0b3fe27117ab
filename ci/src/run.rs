// SPDX-License-Identifier: GPL-2.0-or-later

//! Running other programs: quietly into a log, with one line of progress.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

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
        let mut progress = Progress::new(self.name);
        let mut tail = VecDeque::with_capacity(TAIL);
        let status = stream(command, &self.log, &mut |line| {
            progress.line(line);
            seen(line);
            // What else ninja ran beside the failed command only hides its message.
            if progress::ninja(line).is_some() {
                return;
            }
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line.chars().take(WIDTH).collect::<String>());
        })?;
        if status.success() {
            progress.end("done");
            return Ok(());
        }
        progress.end("failed");
        for line in &tail {
            eprintln!("    {line}");
        }
        let what = format!(
            "{} failed ({status}), log in {}",
            self.name,
            self.log.display()
        );
        Err(Error::new(what, self.todo))
    }
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
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("cannot start no-such-program-here")
        );
    }
}
