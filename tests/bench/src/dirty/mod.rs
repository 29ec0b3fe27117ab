// SPDX-License-Identifier: GPL-2.0-or-later
//! `bench dirty`: what it costs to find the pages that a guest wrote, by bitmaps of the size of the
//! machine and by a list.
//!
//! - [`plan`] says which guests wrote which pages
//! - [`scan`] is a round as QEMU does it, [`list`] one with the dirty list; [`rounds`] measures
//!   them in turn
//! - [`notes`] measures what it costs to put a page on the list
//! - [`migration`] moves a guest, [`pulse`], with a real QEMU and reads its log, [`trace`]
//! - [`table`] prints all of it, [`markdown`] as Markdown, [`page`] as HTML, [`json`] for a file

pub mod json;
pub mod list;
pub mod markdown;
pub mod migration;
pub mod notes;
pub mod page;
pub mod plan;
pub mod pulse;
pub mod rounds;
pub mod scan;
pub mod table;
pub mod timer;
pub mod trace;

use std::path::Path;

use clap::{Args, ValueEnum};
use guest::Result;

use migration::Migrations;
use notes::Note;
use rounds::Round;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Migrations of each guest with the list and without
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub runs: u32,
    /// Only these parts; two of them need no KVM
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub part: Vec<Part>,
    /// Only guests with so much RAM
    #[arg(long, value_delimiter = ',', value_name = "GIB")]
    pub ram: Vec<u64>,
}

/// The parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A round by scan and by list, in this process: 4 GiB to 4 TiB, 0.0001 % to 10 %
    Rounds,
    /// What it costs to put a page on the list
    Notes,
    /// Migrations of a guest under KVM
    Migrations,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.part.is_empty() || self.part.contains(&part)
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Dirty {
    /// By scan and by list.
    pub rounds: Vec<Round>,
    /// What a note takes.
    pub notes: Vec<Note>,
    /// With a real QEMU.
    pub migrations: Migrations,
}

impl Dirty {
    /// Whether nothing was measured, and nothing is to be said about that.
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
            && self.notes.is_empty()
            && self.migrations.moved.is_empty()
            && self.migrations.left_out.is_none()
    }
}

/// Measures what `options` ask for.
///
/// # Errors
/// When something does not find the pages that it should, or QEMU does not do what it should.
pub fn run(qemu: &Path, options: &Options, dirty: &mut Dirty) -> Result<()> {
    if options.wants(Part::Rounds) {
        for ram_gib in plan::RAM_GIB {
            if options.ram.is_empty() || options.ram.contains(&ram_gib) {
                rounds::run(ram_gib, &mut dirty.rounds)?;
            }
        }
    }
    if options.wants(Part::Notes) {
        notes::run(&mut dirty.notes)?;
    }
    if options.wants(Part::Migrations) {
        migration::run(qemu, options.runs, &options.ram, &mut dirty.migrations)?;
    }
    Ok(())
}
