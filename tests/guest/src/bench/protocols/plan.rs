// SPDX-License-Identifier: GPL-2.0-or-later
//! Which drivers inflate which devices, how often.

use std::path::PathBuf;

use super::super::plan::{bad, listed, number};
use crate::config::VmConfig;
use crate::testing::{STOCK, device, with_properties};
use crate::{Error, Result};

/// The guest's RAM in MiB.
pub const MEMORY_MIB: u64 = 4096;
/// What the balloon leaves the guest.
pub const TARGET_MIB: u64 = 1024;
/// What the guest wrote before, so that the host has memory behind it.
pub const WRITTEN_MIB: u64 = 3400;
/// What a program of the guest keeps all the time, and checks in the end.
pub const KEPT_MIB: u64 = 128;
/// Runs of each variant unless the user says otherwise.
const RUNS: u32 = 3;

/// What all others are held against.
pub const STOCK_NAME: &str = "stock";

/// A driver and a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// As the user names it.
    pub name: &'static str,
    /// For the heading.
    pub title: &'static str,
    /// The parameters of our driver, or `None` for the guest's own.
    driver: Option<&'static str>,
    /// The properties of our device, or `None` for QEMU's own.
    properties: Option<&'static str>,
}

/// All variants, in the order in which they take turns.
pub const VARIANTS: [Variant; 5] = [
    Variant {
        name: STOCK_NAME,
        title: "the guest's driver, QEMU's balloon",
        driver: None,
        properties: None,
    },
    Variant {
        name: "stock-driver",
        title: "the guest's driver, our balloon",
        driver: None,
        properties: Some(""),
    },
    Variant {
        name: "classic",
        title: "our driver with single pages, our balloon",
        driver: Some("protocol=classic"),
        properties: Some(""),
    },
    Variant {
        name: "ranges",
        title: "our driver with page ranges",
        driver: Some("protocol=ranges"),
        properties: Some("page-range=on"),
    },
    Variant {
        name: "chunks",
        title: "our driver with chunks",
        driver: Some("protocol=chunks"),
        properties: Some("balloon-chunks=on"),
    },
];

impl Variant {
    /// The device, as `-device` takes it.
    pub fn device(&self) -> String {
        match self.properties {
            Some(properties) => with_properties(&device(), properties),
            None => STOCK.into(),
        }
    }

    /// A guest with this driver and this device.
    pub fn config(&self, base: &VmConfig) -> VmConfig {
        let config = VmConfig {
            memory_mib: MEMORY_MIB,
            device: Some(self.device()),
            ..base.clone()
        };
        match self.driver {
            Some(parameters) => config.founding_driver(parameters),
            None => config,
        }
    }
}

/// What the guest's memory is made of on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pages {
    /// QEMU's default: transparent huge pages where the host has them.
    #[default]
    Huge,
    /// Pages of 4 KiB only.
    Small,
}

impl Pages {
    /// As the user names it.
    pub fn name(self) -> &'static str {
        match self {
            Pages::Huge => "thp",
            Pages::Small => "4k",
        }
    }
}

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often each variant is run with each kind of pages.
    pub runs: u32,
    /// In turn.
    pub variants: Vec<Variant>,
    /// One after the other.
    pub pages: Vec<Pages>,
    /// Where the raw figures go.
    pub json: Option<PathBuf>,
}

impl Options {
    /// Reads `--name value` pairs: `runs`, `variant`, `pages` (lists with commas) and `json`.
    ///
    /// # Errors
    /// When a name or a value is unknown, or nothing is left to do.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options {
            runs: RUNS,
            variants: VARIANTS.to_vec(),
            pages: vec![Pages::Huge, Pages::Small],
            json: None,
        };
        while let Some(name) = args.next() {
            let missing = || bad(&name, "a value is missing");
            let value = args.next().ok_or_else(missing)?;
            match name.as_str() {
                "--runs" => options.runs = number::<u32>(&name, &value)?.max(1),
                "--variant" => options.variants.retain(|v| listed(&value, v.name)),
                "--pages" => options.pages.retain(|p| listed(&value, p.name())),
                "--json" => options.json = Some(value.into()),
                _ => return Err(bad(&name, "there is no such option")),
            }
        }
        if options.variants.is_empty() || options.pages.is_empty() {
            let text = "--variant or --pages: nothing of that name";
            return Err(Error::Missing(text.into()));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        Options::parse(text.split_whitespace().map(String::from))
    }

    #[test]
    fn a_choice_keeps_the_order_of_the_turns() {
        let options = parse("--variant ranges,stock --pages 4k --runs 0").unwrap();
        let names: Vec<&str> = options.variants.iter().map(|v| v.name).collect();
        assert_eq!(names, ["stock", "ranges"]);
        assert_eq!((options.pages, options.runs), (vec![Pages::Small], 1));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(parse("--variant nothing").is_err());
        assert!(parse("--pages").is_err());
        assert!(parse("--window 1").is_err());
    }
}
