// SPDX-License-Identifier: GPL-2.0-or-later
//! What a user does with the balloon of a running guest.

use std::time::Duration;

use serde_json::{Value, json};

use crate::vm::Vm;
use crate::{Error, MIB, PATIENCE, Result};

/// The statistics as `guest-stats` gives them.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Seconds since 1970 of the last report; 0 when there was none.
    pub last_update: u64,
    stats: Value,
}

/// What stands for "not reported".
pub const NOT_REPORTED: u64 = u64::MAX;

impl Stats {
    /// The statistic called `name`, or `None` when the device has no such name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.stats.get(name)?.as_u64()
    }

    /// All names, in alphabetical order.
    pub fn names(&self) -> Vec<&str> {
        let map = self.stats.as_object();
        let mut names: Vec<&str> = map
            .into_iter()
            .flat_map(|m| m.keys())
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        names
    }

    /// Names and values of what the guest reported.
    pub fn reported(&self) -> Vec<(&str, u64)> {
        let all = self.names().into_iter();
        all.filter_map(|n| Some((n, self.get(n)?)))
            .filter(|&(_, value)| value != NOT_REPORTED)
            .collect()
    }
}

impl Vm {
    /// Asks the guest to shrink or grow to `mib` MiB; returns at once.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn set_balloon(&mut self, mib: u64) -> Result<()> {
        self.qmp("balloon", json!({ "value": mib * MIB })).map(drop)
    }

    /// The guest's present size in bytes, as `query-balloon` says.
    ///
    /// # Errors
    /// When there is no balloon.
    pub fn balloon_actual(&mut self) -> Result<u64> {
        let answer = self.qmp("query-balloon", json!({}))?;
        answer["actual"]
            .as_u64()
            .ok_or_else(|| Error::Protocol(format!("query-balloon answered {answer}")))
    }

    /// Waits until the guest has exactly `mib` MiB, and nothing of what it gave back waits for its
    /// neighbours any more.
    ///
    /// # Errors
    /// When it has not within `limit`, with the size that it has then.
    pub fn wait_balloon(&mut self, mib: u64, limit: Duration) -> Result<()> {
        let mut last = 0;
        let reached = self.wait_until("balloon at its target", limit, |vm| {
            last = vm.balloon_actual()?;
            Ok(last == mib * MIB && vm.holds_nothing())
        });
        reached.map_err(|e| match e {
            Error::Machine { said, .. } => Error::Machine {
                source: Box::new(Error::Timeout {
                    what: format!("guest of {mib} MiB (it has {} KiB)", last >> 10),
                    after: limit * PATIENCE,
                }),
                said,
            },
            other => other,
        })
    }

    /// Whether the device has given back all that it was given, except what it may not. Another
    /// device holds nothing.
    fn holds_nothing(&mut self) -> bool {
        let held = self.balloon_property("held-bytes");
        held.map_or(true, |bytes| bytes == json!(0))
    }

    /// Sets the target and waits until the guest has reached it.
    ///
    /// # Errors
    /// When it has not within `limit`.
    pub fn balloon_to(&mut self, mib: u64, limit: Duration) -> Result<()> {
        self.set_balloon(mib)?;
        self.wait_balloon(mib, limit)
    }

    /// A property of the balloon device.
    ///
    /// # Errors
    /// When there is no such property.
    pub fn balloon_property(&mut self, name: &str) -> Result<Value> {
        let arguments = json!({ "path": "/machine/peripheral/balloon0", "property": name });
        self.qmp("qom-get", arguments)
    }

    /// A counter of the balloon device.
    ///
    /// # Errors
    /// When there is no such counter.
    pub fn counter(&mut self, name: &str) -> Result<u64> {
        let value = self.balloon_property(name)?;
        value
            .as_u64()
            .ok_or_else(|| Error::Protocol(format!("property {name} is {value}")))
    }

    /// Makes the device ask for statistics every `seconds`; 0 stops it.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn set_polling(&mut self, seconds: u64) -> Result<()> {
        let arguments = json!({ "path": "/machine/peripheral/balloon0",
                                "property": "guest-stats-polling-interval", "value": seconds });
        self.qmp("qom-set", arguments).map(drop)
    }

    /// The statistics of the last report.
    ///
    /// # Errors
    /// When the device has none.
    pub fn stats(&mut self) -> Result<Stats> {
        let value = self.balloon_property("guest-stats")?;
        Ok(Stats {
            last_update: value["last-update"].as_u64().unwrap_or(0),
            stats: value["stats"].clone(),
        })
    }

    /// Waits for a report that is later than `before` (0: any) and returns it.
    ///
    /// # Errors
    /// When there is none within `limit`.
    pub fn wait_stats(&mut self, before: u64, limit: Duration) -> Result<Stats> {
        self.wait_until("statistics of the guest", limit, |vm| {
            Ok(vm.stats()?.last_update > before)
        })?;
        self.stats()
    }
}
