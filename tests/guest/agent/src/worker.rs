// SPDX-License-Identifier: GPL-2.0-or-later
//! The checking programs that are running, and what they last said.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

#[derive(Default)]
struct Said {
    filled: bool,
    passes: u64,
    counts: String,
    mismatch: Option<String>,
}

struct Worker {
    child: Child,
    said: Arc<Mutex<Said>>,
}

/// All checking programs since the start, stopped ones included.
#[derive(Default)]
pub(crate) struct Workers(Vec<Worker>);

impl Workers {
    /// Starts the checking program `kind` with `args` and answers its number.
    /// When memory runs out it is the first that the kernel ends.
    pub(crate) fn start(&mut self, kind: &str, args: &str) -> Result<String, String> {
        // The C library would keep freed chunks for later use.
        let threshold = if kind == "churn" { "4096" } else { "65536" };
        let mut child = Command::new("/proc/self/exe")
            .arg(kind)
            .args(args.split_whitespace())
            .env("MALLOC_MMAP_THRESHOLD_", threshold)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("start: {e}"))?;
        let _ = fs::write(format!("/proc/{}/oom_score_adj", child.id()), "1000");
        let said = Arc::new(Mutex::new(Said::default()));
        if let Some(out) = child.stdout.take() {
            let said = Arc::clone(&said);
            thread::spawn(move || listen(out, &said));
        }
        self.0.push(Worker { child, said });
        Ok((self.0.len() - 1).to_string())
    }

    /// `NUMBER`: answers `STATE PASSES MISMATCH`, where STATE is `filling`,
    /// `checking`, `exited` or `killed-SIGNAL` and MISMATCH is empty when all is well.
    pub(crate) fn state(&mut self, args: &str) -> Result<String, String> {
        let worker = self.find(args)?;
        let ended = worker.child.try_wait().map_err(|e| e.to_string())?;
        let said = worker.said.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match ended {
            Some(status) => match status.signal() {
                Some(signal) => format!("killed-{signal}"),
                None => "exited".into(),
            },
            None if said.filled => "checking".into(),
            None => "filling".into(),
        };
        let mismatch = said.mismatch.as_deref().unwrap_or("");
        Ok(format!("{state} {} {mismatch}", said.passes))
    }

    /// `NUMBER`: answers what it counted, if it counts.
    pub(crate) fn counts(&mut self, args: &str) -> Result<String, String> {
        let said = &self.find(args)?.said;
        let said = said.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(said.counts.clone())
    }

    /// `NUMBER`: ends it; its memory is free when this answers.
    pub(crate) fn stop(&mut self, args: &str) -> Result<String, String> {
        let worker = self.find(args)?;
        worker.child.kill().map_err(|e| e.to_string())?;
        worker.child.wait().map_err(|e| e.to_string())?;
        Ok(String::new())
    }

    /// `NUMBER`: sends it the signal `name`; it keeps its memory.
    pub(crate) fn signal(&mut self, args: &str, name: &str) -> Result<String, String> {
        let number = self.find(args)?.child.id();
        // A command of the shell itself.
        let status = Command::new("/bin/sh")
            .args(["-c", &format!("kill -{name} {number}")])
            .status();
        match status {
            Ok(status) if status.success() => Ok(String::new()),
            Ok(status) => Err(format!("kill: {status}")),
            Err(e) => Err(format!("kill: {e}")),
        }
    }

    fn find(&mut self, args: &str) -> Result<&mut Worker, String> {
        let number: usize = args.trim().parse().map_err(|_| "a number expected")?;
        self.0
            .get_mut(number)
            .ok_or_else(|| "no such worker".into())
    }
}

fn listen(out: ChildStdout, said: &Mutex<Said>) {
    for line in BufReader::new(out).lines() {
        let Ok(line) = line else { return };
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "filled" => said.filled = true,
            "pass" => said.passes = rest.parse().unwrap_or(said.passes),
            "counts" => said.counts = rest.to_string(),
            _ => said.mismatch = Some(rest.to_string()),
        }
    }
}
