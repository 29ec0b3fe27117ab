// SPDX-License-Identifier: GPL-2.0-or-later
//! Moving a running guest from one QEMU to another on this machine.

use std::time::Duration;

use serde_json::json;

use crate::config::VmConfig;
use crate::vm::Vm;
use crate::{Error, Result};

/// Of a guest of 512 MiB that writes all the time, under emulation.
const MIGRATION_LIMIT: Duration = Duration::from_secs(90);

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
        mut self,
        config: &VmConfig,
        meanwhile: impl FnMut(&mut Vm) -> Result<()>,
    ) -> Result<Vm> {
        let config = VmConfig {
            incoming: true,
            ..config.clone()
        };
        let mut destination = Vm::start(&config)?;
        let uri = format!("unix:{}", destination.dir().join("migration").display());
        destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
        // A checking program writes nothing, but the guest must stop in the end
        // however slow this machine is just now.
        let limits = json!({ "downtime-limit": 2000, "max-bandwidth": 4_u64 << 30 });
        self.qmp("migrate-set-parameters", limits)?;
        self.qmp("migrate", json!({ "uri": uri }))?;
        self.wait_migrated(meanwhile)
            .map_err(|e| both_said(e, &destination))?;
        destination.wait_until("guest running after migration", MIGRATION_LIMIT, |vm| {
            Ok(vm.qmp("query-status", json!({}))?["running"] == true)
        })?;
        Ok(destination)
    }

    fn wait_migrated(&mut self, mut meanwhile: impl FnMut(&mut Vm) -> Result<()>) -> Result<()> {
        let mut failed = None;
        self.wait_until("end of the migration", MIGRATION_LIMIT, |vm| {
            meanwhile(vm)?;
            let state = vm.qmp("query-migrate", json!({}))?;
            if state["status"] == "failed" || state["status"] == "cancelled" {
                failed = Some(state.to_string());
            }
            Ok(failed.is_some() || state["status"] == "completed")
        })?;
        match failed {
            Some(state) => Err(self.explain(Error::Tool(format!("migration failed: {state}")))),
            None => Ok(()),
        }
    }
}

fn both_said(error: Error, destination: &Vm) -> Error {
    let text = format!("{error}\nthe destination:");
    destination.explain(Error::Tool(text))
}
