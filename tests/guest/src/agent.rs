// SPDX-License-Identifier: GPL-2.0-or-later
//! The program inside the guest, seen from the host.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::lines::Lines;
use crate::{Error, PATIENCE, Result};

/// Filling a guest's memory under emulation takes a while.
const ANSWER_LIMIT: Duration = Duration::from_secs(60 * PATIENCE as u64);

/// The serial line to the guest's program.
#[derive(Debug)]
pub struct Agent {
    lines: Lines,
    last_id: u64,
}

/// A checking program in the guest.
#[derive(Debug, Clone, Copy)]
pub struct Worker(u64);

/// What the guest was asked for.
#[derive(Debug)]
pub struct Asked {
    id: String,
    request: String,
}

/// What a checking program is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerState {
    /// `filling`, `checking`, `exited` or `killed-SIGNAL`.
    pub state: String,
    /// How many times it has looked at all of its memory.
    pub passes: u64,
    /// The first wrong word; empty when all is well.
    pub mismatch: String,
}

impl Agent {
    /// Takes over the serial line; the guest need not be up yet.
    pub fn new(lines: Lines) -> Agent {
        Agent { lines, last_id: 0 }
    }

    /// Waits until the guest has booted and returns its kernel release. A reboot
    /// is seen as another one.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it has not within `limit`.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        while let Some(line) = self.lines.next(deadline)? {
            // What a kernel's start leaves on the line may stand before it.
            if let Some((_, release)) = line.split_once("ready ") {
                return Ok(release.to_string());
            }
        }
        Err(Error::Timeout {
            what: "booted guest".into(),
            after: limit,
        })
    }

    /// Asks for one thing and returns the answer.
    ///
    /// # Errors
    /// [`Error::Agent`] when the guest could not do it.
    pub fn call(&mut self, request: &str) -> Result<String> {
        let asked = self.ask(request)?;
        self.answer(&asked)
    }

    /// Asks for one thing and does not wait: the guest may be paused meanwhile.
    ///
    /// # Errors
    /// When the line is closed.
    pub fn ask(&mut self, request: &str) -> Result<Asked> {
        self.last_id += 1;
        let id = self.last_id.to_string();
        self.lines.send(&format!("{id} {request}"))?;
        Ok(Asked {
            id,
            request: request.into(),
        })
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`Error::Agent`] when the guest could not do it.
    pub fn answer(&mut self, Asked { id, request }: &Asked) -> Result<String> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        while let Some(line) = self.lines.next(deadline)? {
            let mut parts = line.splitn(3, ' ');
            if parts.next() != Some(id) {
                continue;
            }
            let status = parts.next().unwrap_or_default();
            let text = unescape(parts.next().unwrap_or_default());
            if status == "ok" {
                return Ok(text);
            }
            return Err(Error::Agent {
                request: request.clone(),
                reason: text,
            });
        }
        Err(Error::Timeout {
            what: format!("answer of the guest to \"{request}\""),
            after: ANSWER_LIMIT,
        })
    }

    /// A value of /proc/meminfo in bytes.
    ///
    /// # Errors
    /// When there is no such value.
    pub fn meminfo(&mut self, name: &str) -> Result<u64> {
        let text = self.call("read /proc/meminfo")?;
        let table = numbers(&text);
        let kib = table.get(name).ok_or_else(|| missing(name))?;
        Ok(kib << 10)
    }

    /// A counter of /proc/vmstat.
    ///
    /// # Errors
    /// When there is no such counter.
    pub fn vmstat(&mut self, name: &str) -> Result<u64> {
        let text = self.call("read /proc/vmstat")?;
        numbers(&text)
            .get(name)
            .copied()
            .ok_or_else(|| missing(name))
    }

    /// Starts a program that fills `mib` MiB and keeps checking them. With
    /// `holes` it gives every second 128 KiB back after filling.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_worker(&mut self, mib: u64, seed: u64, holes: bool) -> Result<Worker> {
        let holes = if holes { " holes" } else { "" };
        self.start("start", &format!("{mib} {seed}{holes}"))
    }

    /// Starts a program that writes `mib` MiB again and again without a pause; its
    /// passes are counted as those of a checking program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_rewriter(&mut self, mib: u64, seed: u64) -> Result<Worker> {
        self.start("start", &format!("{mib} {seed} rewrite"))
    }

    /// Starts a program that writes at random places of its `mib` MiB, some at a time; its
    /// passes say that it goes on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_scatterer(&mut self, mib: u64, seed: u64) -> Result<Worker> {
        self.start("scatter", &format!("{mib} {seed}"))
    }

    /// Starts a checking program with the guest's command for its kind.
    pub(crate) fn start(&mut self, kind: &str, arguments: &str) -> Result<Worker> {
        let number = self.call(&format!("{kind} {arguments}"))?;
        number
            .parse()
            .map(Worker)
            .map_err(|_| Error::Protocol(format!("the guest answered {number:?} to {kind}")))
    }

    /// What a checking program is doing.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn worker(&mut self, worker: Worker) -> Result<WorkerState> {
        let text = self.call(&format!("worker {}", worker.0))?;
        let mut parts = text.splitn(3, ' ');
        let mut part = || parts.next().unwrap_or_default().to_string();
        Ok(WorkerState {
            state: part(),
            passes: part().parse().unwrap_or(0),
            mismatch: part(),
        })
    }

    /// What a checking program counted, in its own words.
    pub(crate) fn counts(&mut self, worker: Worker) -> Result<String> {
        self.call(&format!("counts {}", worker.0))
    }

    /// Keeps a checking program from running; its memory stays as it is.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn hold_worker(&mut self, worker: Worker) -> Result<()> {
        self.call(&format!("hold {}", worker.0)).map(drop)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The same.
    pub fn release_worker(&mut self, worker: Worker) -> Result<()> {
        self.call(&format!("release {}", worker.0)).map(drop)
    }

    /// Ends a checking program and frees its memory.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn stop_worker(&mut self, worker: Worker) -> Result<()> {
        self.call(&format!("stop {}", worker.0)).map(drop)
    }
}

fn missing(name: &str) -> Error {
    Error::Protocol(format!("the guest's kernel does not report {name}"))
}

/// `name value` or `name: value kB` a line.
fn numbers(text: &str) -> HashMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?.trim_end_matches(':');
            Some((name, words.next()?.parse().ok()?))
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_line_breaks_and_backslashes_come_back() {
        assert_eq!(unescape(r"a\nb\\nc"), "a\nb\\nc");
    }

    #[test]
    fn numbers_are_read_with_and_without_unit() {
        let table = numbers("MemTotal:  1024 kB\npgfault 7\nbad line\n");
        assert_eq!((table["MemTotal"], table["pgfault"]), (1024, 7));
        assert_eq!(table.len(), 2);
    }
}
