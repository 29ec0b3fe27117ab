// SPDX-License-Identifier: GPL-2.0-or-later
//! All that one run measured.

use std::path::Path;

use guest::{Error, Result};
use serde_json::{Map, Value, json};

use crate::cost::{self, Costs, start};
use crate::dirty::{self, Dirty};
use crate::figures::{Sample, Samples};
use crate::host::Host;
use crate::latency::{self, Answers};
use crate::linux::{self, FIGURES, Run};
use crate::{report, table};

/// What one run measured; what it did not is empty.
#[derive(Debug)]
pub struct Results {
    /// Where.
    pub host: Host,
    /// Of `bench device`.
    pub device: Samples,
    /// Of `bench latency`.
    pub latency: Vec<Answers>,
    /// Of `bench guest`.
    pub guest: Vec<Run>,
    /// Of `bench cost`.
    pub cost: Costs,
    /// Of `bench dirty`.
    pub dirty: Dirty,
}

impl Results {
    /// Nothing yet.
    pub fn new(host: Host) -> Results {
        Results {
            host,
            device: Samples::default(),
            latency: Vec::new(),
            guest: Vec::new(),
            cost: Costs::default(),
            dirty: Dirty::default(),
        }
    }

    /// Prints the tables.
    pub fn print(&self) {
        println!();
        self.host.lines().iter().for_each(|line| println!("{line}"));
        if !self.device.0.is_empty() {
            table::device(&self.device);
        }
        if !self.latency.is_empty() {
            latency::print(&self.latency);
        }
        if !self.guest.is_empty() {
            linux::print(&self.guest);
        }
        if !self.cost.is_empty() {
            cost::print(&self.cost);
        }
        if !self.dirty.is_empty() {
            dirty::table::print(&self.dirty);
        }
    }

    /// Writes every single figure.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let device: Vec<Value> = self.device.0.iter().map(of_sample).collect();
        let latency: Vec<Value> = self.latency.iter().map(of_answers).collect();
        let guest: Vec<Value> = self.guest.iter().map(of_run).collect();
        let all = json!({
            "host": self.host.json(),
            "device": device,
            "latency": latency,
            "guest": guest,
            "cost": of_costs(&self.cost),
            "dirty": dirty::json::of(&self.dirty),
        });
        write(path, &format!("{all:#}\n"))
    }

    /// Writes tables and plots as a page that needs nothing else.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_html(&self, path: &Path) -> Result<()> {
        write(path, &report::page(self)?)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(Error::io(dir.display().to_string()))?;
    }
    std::fs::write(path, text).map_err(Error::io(path.display().to_string()))
}

fn of_sample(sample: &Sample) -> Value {
    json!({
        "backing": sample.case.backing.name(),
        "operation": sample.case.operation.name(),
        "pattern": sample.case.pattern.name(),
        "device": sample.device,
        "round": sample.round,
        "cpu_ns_per_page": sample.cpu_ns,
        "wall_ns_per_page": sample.wall_ns,
        "freed": sample.freed,
        "huge_before": sample.huge,
    })
}

fn of_answers(answers: &Answers) -> Value {
    json!({
        "input": answers.input.name(),
        "device": answers.device,
        "answers": answers.ns.len(),
        "ended": answers.ended,
        "p50_ms": answers.percentile_ms(0.5),
        "p99_ms": answers.percentile_ms(0.99),
        "p99_9_ms": answers.percentile_ms(0.999),
        "max_ms": answers.percentile_ms(1.0),
    })
}

fn of_run(run: &Run) -> Value {
    named(&FIGURES, &run.values, run.device)
}

fn named(figures: &[(&str, &str)], values: &[f64], device: &str) -> Value {
    let named = figures.iter().zip(values);
    let mut map: Map<String, Value> = named
        .map(|((key, _), value)| ((*key).into(), json!(value)))
        .collect();
    map.insert("device".into(), json!(device));
    Value::Object(map)
}

fn of_costs(costs: &Costs) -> Value {
    let start = |start: &start::Start| named(&start::FIGURES, &start.values, start.device);
    let fill = |fill: &cost::fill::Filled| {
        json!({
            "fill": fill.fill,
            "device": fill.device,
            "worked_kib": fill.work_kib,
            "filled_kib": fill.filled_kib,
            "cpu_ns_per_page": fill.cpu_ns,
        })
    };
    let set = |set: &cost::fill::Set| json!({ "set": set.name, "bytes_per_tib": set.bytes });
    let parts = |p: cost::link::Parts| json!({ "text": p.text, "data": p.data, "zeros": p.zeros });
    let added = match &costs.added {
        Some(Ok(added)) => json!({
            "whole": added.whole,
            "library": parts(added.library),
            "glue": parts(added.glue),
        }),
        Some(Err(why)) => json!({ "not_measured": why }),
        None => Value::Null,
    };
    json!({
        "starts": costs.starts.iter().map(start).collect::<Vec<_>>(),
        "fills": costs.fills.iter().map(fill).collect::<Vec<_>>(),
        "sets": costs.sets.iter().map(set).collect::<Vec<_>>(),
        "program_bytes": added,
    })
}
