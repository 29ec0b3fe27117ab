// SPDX-License-Identifier: GPL-2.0-or-later
//! The machine that was measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

use guest::{Error, Result};
use serde_json::{Value, json};

/// What figures depend on.
#[derive(Debug, Clone)]
pub struct Host {
    /// The day, as YEAR-MONTH-DAY.
    pub date: String,
    processor: String,
    processors: usize,
    memory_mib: u64,
    kernel: String,
    qemu: String,
    load: f64,
}

/// Above this somebody else is at work.
const QUIET_LOAD: f64 = 0.5;

impl Host {
    /// This machine, and the QEMU that is measured.
    ///
    /// # Errors
    /// When QEMU or /proc cannot be asked.
    pub fn here(qemu: &Path) -> Result<Host> {
        let read = |path: &str| fs::read_to_string(path).map_err(Error::io(path));
        let processors = read("/proc/cpuinfo")?;
        let memory = field(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
        let memory = memory
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        let load = read("/proc/loadavg")?;
        let version = said(Command::new(qemu).arg("--version"))?;
        let version = version.split("version ").nth(1).unwrap_or_default();
        Ok(Host {
            date: said(Command::new("date").args(["-u", "+%F"]))?
                .trim()
                .into(),
            processor: field(&processors, "model name").unwrap_or_else(|| "processors".into()),
            processors: processors.matches("processor\t").count(),
            memory_mib: memory.unwrap_or(0) >> 10,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().into(),
            qemu: version.split_whitespace().next().unwrap_or_default().into(),
            load: load
                .split_whitespace()
                .next()
                .and_then(|l| l.parse().ok())
                .unwrap_or(0.0),
        })
    }

    /// In words.
    pub fn lines(&self) -> Vec<String> {
        let Host {
            processors,
            processor,
            memory_mib,
            kernel,
            ..
        } = self;
        let mut lines = vec![
            format!("{}, QEMU {}", self.date, self.qemu),
            format!("{processors} x {processor}, {memory_mib} MiB, Linux {kernel}"),
        ];
        if self.load > QUIET_LOAD {
            lines.push(format!(
                "The machine was not quiet: load {:.1} before the start. Times are too long, \
                 processor times somewhat.",
                self.load
            ));
        }
        lines
    }

    /// In one sentence, for a caption.
    pub fn caption(&self) -> String {
        let mut lines = self.lines().into_iter();
        let (first, second) = (lines.next(), lines.next());
        let loud = if self.load > QUIET_LOAD {
            "; other programs ran"
        } else {
            ""
        };
        let both: Vec<String> = [second, first].into_iter().flatten().collect();
        format!("{}{loud}", both.join(", "))
    }

    /// For the file of all figures.
    pub fn json(&self) -> Value {
        json!({
            "date": self.date,
            "processor": self.processor,
            "processors": self.processors,
            "memory_mib": self.memory_mib,
            "kernel": self.kernel,
            "qemu": self.qemu,
            "load_before": self.load,
        })
    }
}

/// The value of the first `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches([':', ' ', '\t']).to_string())
}

fn said(command: &mut Command) -> Result<String> {
    let out = command
        .output()
        .map_err(Error::io(format!("run {command:?}")))?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
