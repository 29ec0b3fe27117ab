// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU's monitor.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lines::Lines;
use crate::{Error, PATIENCE, Result};

/// QEMU answers at once unless its main loop is stuck.
const ANSWER_LIMIT: Duration = Duration::from_secs(30 * PATIENCE as u64);

/// A connection to the monitor, past the greeting.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Waits for the greeting and turns commands on.
    ///
    /// # Errors
    /// When QEMU does not greet within the limit of an answer.
    pub fn new(lines: Lines) -> Result<Qmp> {
        let mut qmp = Qmp {
            lines,
            events: VecDeque::new(),
        };
        let greeting = qmp.next(Instant::now() + ANSWER_LIMIT)?;
        if greeting.is_none_or(|v| v.get("QMP").is_none()) {
            return Err(Error::Protocol("QEMU's monitor did not greet".into()));
        }
        qmp.execute("qmp_capabilities", json!({ "enable": ["oob"] }))?;
        Ok(qmp)
    }

    /// Runs a command and returns what it returns.
    ///
    /// # Errors
    /// [`Error::Qmp`] when QEMU refuses, [`Error::Timeout`] when it does not answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.run("execute", command, arguments)
    }

    /// The same for one of the few commands that QEMU also runs while its main
    /// loop waits for something.
    ///
    /// # Errors
    /// The same.
    pub fn execute_out_of_band(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.run("exec-oob", command, arguments)
    }

    fn run(&mut self, how: &str, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ how: command, "arguments": arguments });
        self.lines.send(&request.to_string())?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        while let Some(mut message) = self.next(deadline)? {
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                let reason = error["desc"].as_str().unwrap_or("no reason given");
                return Err(Error::Qmp {
                    command: command.into(),
                    reason: reason.into(),
                });
            }
            self.events.push_back(message);
        }
        Err(Error::Timeout {
            what: format!("answer to {command}"),
            after: ANSWER_LIMIT,
        })
    }

    /// The next event called `name`, those that came before now included; events
    /// of other names are kept.
    ///
    /// # Errors
    /// [`Error::Timeout`] when there is none within `limit`.
    pub fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let found = self.events.iter().position(|e| e["event"] == name);
            if let Some(event) = found.and_then(|at| self.events.remove(at)) {
                return Ok(event);
            }
            match self.next(deadline)? {
                Some(event) => self.events.push_back(event),
                None => {
                    return Err(Error::Timeout {
                        what: format!("event {name}"),
                        after: limit,
                    });
                }
            }
        }
    }

    /// Forgets the events that came so far.
    pub fn clear_events(&mut self) {
        self.events.clear();
    }

    fn next(&mut self, deadline: Instant) -> Result<Option<Value>> {
        let Some(line) = self.lines.next(deadline)? else {
            return Ok(None);
        };
        serde_json::from_str(&line)
            .map(Some)
            .map_err(|e| Error::Protocol(format!("QEMU's monitor said {line:?}: {e}")))
    }
}
