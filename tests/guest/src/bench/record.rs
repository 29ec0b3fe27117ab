// SPDX-License-Identifier: GPL-2.0-or-later
//! The machine that was measured on, and the raw figures as a file.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::figures::{FIGURES, Run};
use super::plan::Options;
use crate::accel::{self, Accel};
use crate::config::VmConfig;
use crate::{Error, Result};

/// What the figures depend on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The host's processors.
    pub processors: usize,
    /// Their kind.
    pub processor: String,
    /// The host's memory in MiB.
    pub memory_mib: u64,
    /// Programs that were waiting for a processor in the last minute, on average.
    pub load: f64,
    /// QEMU's version.
    pub qemu: String,
    /// How guests are run.
    pub accel: &'static str,
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// When QEMU or /proc cannot be asked.
    pub fn here(base: &VmConfig) -> Result<Machine> {
        let read = |path: &str| fs::read_to_string(path).map_err(Error::io(path));
        let processors = read("/proc/cpuinfo")?;
        let kind = field(&processors, "model name").unwrap_or_else(|| "processors".into());
        let memory = field(&read("/proc/meminfo")?, "MemTotal");
        let memory = memory.and_then(|m| m.split_whitespace().next()?.parse::<u64>().ok());
        let load = read("/proc/loadavg")?;
        let load = load.split_whitespace().next().and_then(|l| l.parse().ok());
        let accel = base
            .accel
            .unwrap_or_else(|| accel::choose(&base.qemu, &base.image));
        Ok(Machine {
            processors: processors.matches("processor\t").count(),
            processor: kind,
            memory_mib: memory.unwrap_or(0) >> 10,
            load: load.unwrap_or(0.0),
            qemu: version(&base.qemu)?,
            accel: match accel {
                Accel::Kvm => "KVM",
                Accel::Tcg => "emulation",
            },
        })
    }

    /// All of it, for a file.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "processors": self.processors,
            "processor": self.processor,
            "memory_mib": self.memory_mib,
            "load_before": self.load,
            "qemu": self.qemu,
            "guests_run_by": self.accel,
        })
    }
}

/// The value of the first `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches([':', ' ', '\t']).to_string())
}

fn version(qemu: &Path) -> Result<String> {
    let out = Command::new(qemu)
        .arg("--version")
        .output()
        .map_err(Error::io(format!("start {}", qemu.display())))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let version = text
        .split("version ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    Ok(version.unwrap_or("of unknown version").to_string())
}

/// Writes all runs to `path`, as JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, machine: &Machine, options: &Options, runs: &[Run]) -> Result<()> {
    let runs: Vec<Value> = runs.iter().map(of_run).collect();
    let devices: Map<String, Value> = options
        .variants
        .iter()
        .map(|v| (v.name.clone(), json!(v.device)))
        .collect();
    let all = json!({
        "machine": machine.to_json(),
        "max_bandwidth": options.max_bandwidth,
        "kernel_args": options.kernel_args,
        "devices": devices,
        "runs": runs,
    });
    fs::write(path, format!("{all:#}\n")).map_err(Error::io(path.display().to_string()))
}

fn of_run(run: &Run) -> Value {
    let mut map = Map::new();
    map.insert("scenario".into(), json!(run.scenario));
    map.insert("device".into(), json!(run.variant));
    map.insert("round".into(), json!(run.round));
    for figure in &FIGURES {
        map.insert(figure.key.into(), json!((figure.of)(run)));
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_of_a_name_counts() {
        let text = "processor\t: 0\nmodel name\t: Some CPU\nmodel name\t: Other\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU"));
        assert_eq!(field(text, "MemTotal"), None);
    }

    #[test]
    fn a_run_has_every_figure() {
        let value = of_run(&Run::default());
        assert!(FIGURES.iter().all(|f| value.get(f.key).is_some()));
        assert!(value["hint_wait_ms"].is_null());
    }
}
