// SPDX-License-Identifier: GPL-2.0-or-later
//! Moving a running guest from one QEMU to another on this machine.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::config::VmConfig;
use crate::vm::Vm;
use crate::{Error, PATIENCE, Result};

/// Of a guest of 512 MiB that writes all the time, under emulation.
const MIGRATION_LIMIT: Duration = Duration::from_secs(90);
/// A state may be over soon.
const POLL: Duration = Duration::from_millis(10);
/// Between two times that something is done while the guest moves.
const MEANWHILE: Duration = Duration::from_millis(100);

/// How a guest moves.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// Capabilities of both sides.
    pub capabilities: Vec<&'static str>,
    /// Parameters of both sides, besides those that every migration has here.
    pub parameters: Vec<(&'static str, Value)>,
    /// Through this file, else through a socket.
    pub file: Option<PathBuf>,
    /// Switch over to the destination before all memory is there, as soon as the
    /// source has sent this many bytes.
    pub postcopy_after: Option<u64>,
}

/// A guest that has moved.
#[derive(Debug)]
pub struct Moved {
    /// The QEMU that it left, with the counters of its device.
    pub source: Vm,
    /// The QEMU that it is in.
    pub destination: Vm,
    /// The source's last answer to `query-migrate`.
    pub state: Value,
}

impl Moved {
    /// A figure of `ram` in `query-migrate`.
    pub fn ram(&self, name: &str) -> u64 {
        self.state["ram"][name].as_u64().unwrap_or(0)
    }

    /// Pages that the source looked at, whether it found anything in them or not.
    pub fn pages_scanned(&self) -> u64 {
        self.ram("normal") + self.ram("duplicate")
    }
}

impl Vm {
    /// Moves the guest to a new QEMU that is started as `config` says and returns
    /// that; the old one ends.
    ///
    /// # Errors
    /// When the new QEMU does not start or the migration fails, with the words of
    /// the side that refused.
    pub fn migrate_to(self, config: &VmConfig) -> Result<Vm> {
        self.migrate_to_while(config, |_| Ok(()))
    }

    /// The same, and does `meanwhile` again and again until the guest has moved.
    ///
    /// # Errors
    /// The same, or what `meanwhile` returns.
    pub fn migrate_to_while(
        self,
        config: &VmConfig,
        meanwhile: impl FnMut(&mut Vm) -> Result<()>,
    ) -> Result<Vm> {
        Ok(self
            .move_to(config, &Way::default(), meanwhile)?
            .destination)
    }

    /// Moves the guest by a way and keeps the old QEMU. `meanwhile` is done again
    /// and again while the guest runs in the source.
    ///
    /// # Errors
    /// The same as [`Vm::migrate_to_while`].
    pub fn move_to(
        mut self,
        config: &VmConfig,
        way: &Way,
        meanwhile: impl FnMut(&mut Vm) -> Result<()>,
    ) -> Result<Moved> {
        let mut destination = Vm::start_destination(config, way)?;
        let uri = destination.uri(way);
        if way.file.is_none() {
            destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
        }
        self.begin_migration(way, &uri)?;
        let state = self
            .wait_moved(way, meanwhile)
            .map_err(|e| both_said(e, &destination))?;
        if way.file.is_some() {
            destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
        }
        destination
            .wait_arrived()
            .map_err(|e| both_said(e, &self))?;
        Ok(Moved {
            source: self,
            destination,
            state,
        })
    }

    /// Starts a QEMU that can take the guest; it does not listen yet.
    ///
    /// # Errors
    /// When it does not start or refuses a capability.
    pub fn start_destination(config: &VmConfig, way: &Way) -> Result<Vm> {
        let mut destination = Vm::start(&VmConfig {
            incoming: true,
            ..config.clone()
        })?;
        destination.set_way(way)?;
        Ok(destination)
    }

    /// Where it listens for a guest that comes by this way.
    pub fn uri(&self, way: &Way) -> String {
        match &way.file {
            Some(file) => format!("file:{}", file.display()),
            None => format!("unix:{}", self.dir().join("migration").display()),
        }
    }

    /// Starts to send the guest to `uri`.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn begin_migration(&mut self, way: &Way, uri: &str) -> Result<()> {
        self.set_way(way)?;
        self.qmp("migrate", json!({ "uri": uri })).map(drop)
    }

    /// Sets capabilities and parameters for this way, and no other capability.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn set_way(&mut self, way: &Way) -> Result<()> {
        let known = self.qmp("query-migrate-capabilities", json!({}))?;
        let known: Vec<Value> = known.as_array().cloned().unwrap_or_default();
        let changed = known.into_iter().filter_map(|c| {
            let wanted = way.capabilities.iter().any(|name| c["capability"] == *name);
            let change = json!({ "capability": c["capability"], "state": wanted });
            (c["state"] != wanted).then_some(change)
        });
        let list: Vec<Value> = changed.collect();
        self.qmp("migrate-set-capabilities", json!({ "capabilities": list }))?;
        // The guest must stop in the end however slow this machine is just now.
        let mut all = json!({ "downtime-limit": 2000, "max-bandwidth": 4_u64 << 30 });
        for (name, value) in &way.parameters {
            all[*name] = value.clone();
        }
        self.set_migration_parameters(all)
    }

    /// Sets parameters, before a migration or in the middle of one.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn set_migration_parameters(&mut self, parameters: Value) -> Result<()> {
        self.qmp("migrate-set-parameters", parameters).map(drop)
    }

    /// The answer to `query-migrate`.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn migration(&mut self) -> Result<Value> {
        self.qmp("query-migrate", json!({}))
    }

    /// Asks again and again, doing `meanwhile`, until `done` says so of the state.
    ///
    /// # Errors
    /// When the migration ends in another way, when it takes too long, or what
    /// `meanwhile` returns.
    pub fn wait_migration(
        &mut self,
        what: &str,
        mut meanwhile: impl FnMut(&mut Vm) -> Result<()>,
        done: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + MIGRATION_LIMIT * PATIENCE;
        let mut next = Instant::now();
        loop {
            if Instant::now() >= next {
                meanwhile(self)?;
                next = Instant::now() + MEANWHILE;
            }
            let state = self.migration()?;
            if done(&state) {
                return Ok(state);
            }
            let text = format!("no {what}, the migration: {state}");
            if is_over(&state) || Instant::now() > deadline {
                return Err(self.explain(Error::Tool(text)));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits for a state by its name.
    ///
    /// # Errors
    /// The same as [`Vm::wait_migration`].
    pub fn wait_migration_status(&mut self, status: &str) -> Result<Value> {
        self.wait_migration(status, |_| Ok(()), |state| state["status"] == status)
    }

    fn wait_moved(
        &mut self,
        way: &Way,
        mut meanwhile: impl FnMut(&mut Vm) -> Result<()>,
    ) -> Result<Value> {
        if let Some(bytes) = way.postcopy_after {
            let sent = |state: &Value| state["ram"]["transferred"].as_u64() >= Some(bytes);
            self.wait_migration("bytes sent", &mut meanwhile, sent)?;
            self.qmp("migrate-start-postcopy", json!({}))?;
        }
        let done = |state: &Value| state["status"] == "completed";
        self.wait_migration("end of the migration", meanwhile, done)
    }

    /// Waits until all of the guest is here, running or as it was stopped.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_arrived(&mut self) -> Result<()> {
        self.wait_until("guest after migration", MIGRATION_LIMIT, |vm| {
            // Without postcopy a side that only receives may say nothing.
            let state = vm.migration()?;
            let whole = state["status"].is_null() || state["status"] == "completed";
            let status = vm.qmp("query-status", json!({}))?;
            Ok(whole && status["status"] != "inmigrate")
        })
    }
}

/// Whether nothing more will come of it.
fn is_over(state: &Value) -> bool {
    let over = ["failed", "cancelled", "completed"];
    over.iter().any(|status| state["status"] == *status)
}

fn both_said(error: Error, other: &Vm) -> Error {
    let text = format!("{error}\nthe other side:");
    other.explain(Error::Tool(text))
}
