// SPDX-License-Identifier: GPL-2.0-or-later
//! Which guests are moved, with which devices, how often.

use std::path::PathBuf;

use crate::config::VmConfig;
use crate::testing::{STOCK, device};
use crate::{Error, Result};

/// The thread that serves the hints, the same for both devices.
const IOTHREAD: &str = "hints0";
/// Runs of each pair of scenario and device unless the user says otherwise.
const RUNS: u32 = 3;

/// A guest and what it did before it is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// As the user names it.
    pub name: &'static str,
    /// As a heading.
    pub title: &'static str,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Memory that a program filled and gave back, in MiB.
    pub freed_mib: u64,
    /// What the balloon leaves the guest, in MiB.
    pub balloon_mib: Option<u64>,
    /// Memory that a program writes all the time, in MiB; 0 for none.
    pub rewritten_mib: u64,
}

const FREED_MIB: u64 = 2560;

/// All scenarios, in the order in which they are run.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "freed",
        title: "a guest of 4 GiB that used and freed 2.5 GiB",
        memory_mib: 4096,
        freed_mib: FREED_MIB,
        balloon_mib: None,
        rewritten_mib: 0,
    },
    Scenario {
        name: "ballooned",
        title: "the same guest, ballooned to 512 MiB",
        memory_mib: 4096,
        freed_mib: FREED_MIB,
        balloon_mib: Some(512),
        rewritten_mib: 0,
    },
    Scenario {
        name: "ballooned-8g",
        title: "a guest of 8 GiB, ballooned to 512 MiB too",
        memory_mib: 8192,
        freed_mib: FREED_MIB,
        balloon_mib: Some(512),
        rewritten_mib: 0,
    },
    Scenario {
        name: "busy",
        title: "a guest of 4 GiB that used and freed 2.5 GiB and writes 64 MiB all the time",
        memory_mib: 4096,
        freed_mib: FREED_MIB,
        balloon_mib: None,
        rewritten_mib: 64,
    },
];

/// A device as it is compared with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// As the user names it.
    pub name: String,
    /// As `-device` takes it.
    pub device: String,
    /// Whether it has the properties that only ours has.
    pub ours: bool,
    /// The parameters of our driver, or `None` for the guest's own.
    pub driver: Option<&'static str>,
}

/// Stock without hints.
pub const STOCK_PLAIN: &str = "stock";
/// Stock with hints: what the time of ours is held against.
pub const STOCK_HINTS: &str = "stock+hints";
const OURS: &str = "ours";
/// Run only where they are named.
const FOUNDING: [(&str, &str, &str); 2] = [
    (
        "host-request",
        "page-range=on,host-request=on",
        "protocol=ranges free_pages=host-request",
    ),
    (
        "misc-queue",
        "balloon-chunks=on,misc-queue=on",
        "protocol=chunks free_pages=misc",
    ),
];

impl Variant {
    /// All devices; ours with hints once for each of `windows`, or once as it is by default.
    fn all(windows: &[u32]) -> Vec<Variant> {
        let hints = format!("free-page-hint=on,iothread={IOTHREAD}");
        let variant = |name: String, device: String, ours| Variant {
            name,
            device,
            ours,
            driver: None,
        };
        let ours = device();
        let mut all = vec![
            variant(STOCK_PLAIN.into(), STOCK.into(), false),
            variant(STOCK_HINTS.into(), format!("{STOCK},{hints}"), false),
        ];
        if windows.is_empty() {
            all.push(variant(OURS.into(), format!("{ours},{hints}"), true));
        }
        for window in windows {
            let device = format!("{ours},{hints},free-page-hint-window={window}");
            all.push(variant(format!("{OURS}@{window}ms"), device, true));
        }
        for (name, properties, driver) in FOUNDING {
            let device = format!("{ours},{properties}");
            all.push(Variant {
                driver: Some(driver),
                ..variant(name.into(), device, true)
            });
        }
        all
    }

    /// Whether it is run when the user names none.
    fn by_default(&self) -> bool {
        self.driver.is_none()
    }

    /// A guest of `scenario` with this device.
    pub fn config(&self, base: &VmConfig, options: &Options, scenario: &Scenario) -> VmConfig {
        let config = VmConfig {
            memory_mib: scenario.memory_mib,
            device: Some(self.device.clone()),
            kernel_args: options.kernel_args.clone(),
            more_arguments: vec!["-object".into(), format!("iothread,id={IOTHREAD}")],
            ..base.clone()
        };
        match self.driver {
            Some(parameters) => config.founding_driver(parameters),
            None => config,
        }
    }
}

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often each scenario is run with each device.
    pub runs: u32,
    /// What is run, in order.
    pub scenarios: Vec<Scenario>,
    /// With which devices, in turn.
    pub variants: Vec<Variant>,
    /// `max-bandwidth` in bytes a second; 0 for no limit.
    pub max_bandwidth: u64,
    /// More words for the kernel's command line.
    pub kernel_args: String,
    /// Where the raw figures go.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Reads `--name value` pairs: `runs`, `scenario`, `variant`, `window` (lists with
    /// commas), `max-bandwidth` (MiB a second), `kernel-args` and `json`.
    ///
    /// # Errors
    /// When a name or a value is unknown, or the list of what to do becomes empty.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options {
            runs: RUNS,
            scenarios: SCENARIOS.to_vec(),
            variants: Vec::new(),
            max_bandwidth: 0,
            kernel_args: String::new(),
            json: None,
        };
        let mut windows = Vec::new();
        let mut wanted: Option<String> = None;
        let mut args = args;
        while let Some(name) = args.next() {
            let value = args
                .next()
                .ok_or_else(|| bad(&name, "a value is missing"))?;
            match name.as_str() {
                "--runs" => options.runs = number::<u32>(&name, &value)?.max(1),
                "--max-bandwidth" => options.max_bandwidth = number::<u64>(&name, &value)? << 20,
                "--kernel-args" => options.kernel_args = value,
                "--json" => options.json = Some(value.into()),
                "--window" => {
                    let each = value.split(',').map(|ms| number(&name, ms));
                    windows = each.collect::<Result<_>>()?;
                }
                "--scenario" => options.scenarios.retain(|s| listed(&value, s.name)),
                "--variant" => wanted = Some(value),
                _ => return Err(bad(&name, "there is no such option")),
            }
        }
        options.variants = Variant::all(&windows);
        options.variants.retain(|v| match &wanted {
            Some(list) => v.name.split('@').next().is_some_and(|n| listed(list, n)),
            None => v.by_default(),
        });
        if options.scenarios.is_empty() || options.variants.is_empty() {
            return Err(bad("--scenario or --variant", "nothing of that name"));
        }
        Ok(options)
    }
}

/// Whether `name` is in the `list` with commas.
pub(super) fn listed(list: &str, name: &str) -> bool {
    list.split(',').any(|each| each == name)
}

/// The value of the option `name`.
pub(super) fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| bad(name, "a number is expected"))
}

/// What is wrong with the option `name`.
pub(super) fn bad(name: &str, why: &str) -> Error {
    Error::Missing(format!("{name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        Options::parse(text.split_whitespace().map(String::from))
    }

    #[test]
    fn each_window_is_a_device_of_its_own() {
        let options = parse("--window 0,250 --variant stock+hints,ours --runs 5").unwrap();
        let names: Vec<&str> = options.variants.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["stock+hints", "ours@0ms", "ours@250ms"]);
        assert!(options.variants[2].device.ends_with("window=250"));
        assert_eq!(options.runs, 5);
    }

    #[test]
    fn other_ways_than_hints_are_run_where_they_are_named() {
        let names = |text: &str| -> Vec<String> {
            let variants = parse(text).unwrap().variants;
            variants.into_iter().map(|v| v.name).collect()
        };
        assert_eq!(names("--runs 1"), ["stock", "stock+hints", "ours"]);
        let named = "--variant misc-queue,ours,host-request";
        assert_eq!(names(named), ["ours", "host-request", "misc-queue"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(parse("--scenario nothing").is_err());
        assert!(parse("--runs many").is_err());
        assert!(parse("--runs").is_err());
        assert!(parse("--fast 1").is_err());
    }

    #[test]
    fn the_limit_of_the_link_is_in_mib() {
        let options = parse("--max-bandwidth 100 --scenario busy,freed").unwrap();
        assert_eq!(options.max_bandwidth, 100 << 20);
        let names: Vec<&str> = options.scenarios.iter().map(|s| s.name).collect();
        assert_eq!(names, ["freed", "busy"]);
    }
}
