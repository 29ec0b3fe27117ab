// SPDX-License-Identifier: GPL-2.0-or-later
//! What a migration stream carries, validated.

use crate::config::ConfigState;
use crate::device::{Balloon, Ballooned};
use crate::error::Error;
use crate::features::{FOUNDING, Features};
use crate::memory::Piece;
use crate::page::{GpaRange, PAGE_SIZE};
use crate::pageset::{self, MAX_BYTES, PAGE_LIMIT, Written};
use crate::queue::stats::Stats;
use crate::wire::STATS;
use sparse_bitmap::SparseBitmap;

const _: () = assert!(STATS == 16, "the C header needs the number itself");

/// The state of a device in a migration stream.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct State {
    /// Pages that the host asks for.
    pub num_pages: u32,
    /// Pages that the guest says are in the balloon.
    pub actual: u32,
    /// What the guest fills free pages with; 0 where PAGE_POISON was not negotiated.
    pub poison_val: u32,
    /// Whether the fields below were sent: only to a device like this one.
    pub has_stats: bool,
    /// The statistics by tag, all ones for "not reported".
    pub stats: [u64; 16],
    /// When they came, in seconds since the epoch; 0 for never.
    pub stats_last_update: i64,
    /// How often the statistics are polled, in seconds; 0 for not at all.
    pub stats_polling_interval: i64,
    /// The founding protocols that the driver speaks, by their private bits: what other bits mean,
    /// the two ends may see differently.
    pub founding: u64,
    /// Whether the field below was sent: only to a device like this one, and where `num_pages` does
    /// not say it.
    pub has_target: bool,
    /// How many bytes of its RAM the host asks the guest to keep, all ones for all of it.
    pub target: u64,
}

impl State {
    /// The state of `balloon`, whose statistics are polled every `interval` seconds.
    pub fn save(balloon: &Balloon, interval: i64) -> State {
        let (config, stats) = (balloon.config(), balloon.stats());
        State {
            num_pages: config.num_pages,
            actual: config.actual,
            poison_val: config.poison_val,
            has_stats: true,
            stats: stats.values,
            stats_last_update: stats.last_update,
            stats_polling_interval: interval,
            founding: founding(balloon),
            has_target: ConfigState::target_of(config.num_pages, config.ram) != config.target,
            target: config.target.unwrap_or(u64::MAX),
        }
    }

    /// Makes `balloon` go on from here, in a machine that can have `max_ram` bytes of memory, with
    /// the set of ballooned `pages` if the stream carries one. The stream's features must have been
    /// set, and the size of RAM. If that is another one than it was at the source, the number of
    /// pages that the host asks for changes when it is set again.
    ///
    /// `actual` is the guest's own number and may be any.
    ///
    /// # Errors
    ///
    /// [`Error::StateFounding`] when the driver would be misunderstood; [`Error::StateTarget`],
    /// [`Error::StatePoison`], [`Error::StateStats`] or what [`SavedPages`] says when no device can
    /// have saved this; nothing has changed then.
    pub fn load(
        &self,
        balloon: &mut Balloon,
        pages: Option<SavedPages<'_>>,
        max_ram: u64,
    ) -> Result<(), Error> {
        if self.founding != founding(balloon) {
            return Err(Error::StateFounding);
        }
        if u64::from(self.num_pages) > max_ram / PAGE_SIZE {
            return Err(Error::StateTarget);
        }
        let has_poison = balloon.negotiated().contains(Features::PAGE_POISON);
        if self.poison_val != 0 && !has_poison {
            return Err(Error::StatePoison);
        }
        let stats = if self.has_stats {
            let interval_is_sound = u32::try_from(self.stats_polling_interval).is_ok();
            if !interval_is_sound || self.stats_last_update < 0 {
                return Err(Error::StateStats);
            }
            Some(Stats {
                values: self.stats,
                last_update: self.stats_last_update,
            })
        } else {
            None
        };
        let ram = balloon.config().ram;
        let target = if self.has_target {
            (self.target != u64::MAX).then_some(self.target)
        } else {
            ConfigState::target_of(self.num_pages, ram)
        };
        let config = ConfigState {
            target,
            ram,
            num_pages: self.num_pages,
            actual: self.actual,
            poison_val: self.poison_val,
        };
        let ballooned = pages.map(|pages| pages.read(balloon)).transpose()?;
        balloon.restore(config, stats, ballooned);
        Ok(())
    }
}

/// The founding protocols that the driver of `balloon` speaks.
fn founding(balloon: &Balloon) -> u64 {
    balloon.negotiated().intersection(FOUNDING).bits()
}

/// The set of ballooned pages as a stream carries it: only that of a guest with MUST_TELL_HOST.
#[derive(Clone, Copy, Debug)]
pub struct SavedPages<'a> {
    /// The set, coded as in [`pageset`].
    pub coded: &'a [u8],
    /// Whether all pages in the balloon are in it.
    pub complete: bool,
}

impl SavedPages<'_> {
    /// Writes the set of `balloon` to `out`, whose length bounds it.
    pub fn write(balloon: &Balloon, out: &mut [u8]) -> Written {
        let ballooned = balloon.ballooned();
        let written = pageset::encode(ballooned.pages.runs(), out);
        Written {
            complete: written.complete && ballooned.complete,
            ..written
        }
    }

    /// The set as it is for `balloon`, without the pages that are not RAM here: whatever memory
    /// gets to be at their addresses later was never in the balloon.
    ///
    /// What it takes of the host's memory is bounded by the guest's RAM, whatever the stream says.
    ///
    /// # Errors
    ///
    /// [`Error::StatePagesUntold`] without MUST_TELL_HOST: only that promise keeps the guest from
    /// using a page of the set unannounced. [`Error::StatePagesSize`] past [`MAX_BYTES`]; else what
    /// [`pageset::decode`] says.
    fn read(&self, balloon: &Balloon) -> Result<Ballooned<SparseBitmap>, Error> {
        if !balloon.negotiated().contains(Features::MUST_TELL_HOST) {
            return Err(Error::StatePagesUntold);
        }
        if self.coded.len() > MAX_BYTES {
            return Err(Error::StatePagesSize);
        }
        let mut ballooned = Ballooned {
            pages: SparseBitmap::new(PAGE_LIMIT),
            complete: self.complete,
        };
        let memory = balloon.memory();
        // The next run mostly lies in the same piece of RAM as the last.
        let mut last = 0..0;
        for run in pageset::decode(self.coded) {
            let run = run?;
            if last.start <= run.start && run.end <= last.end {
                ballooned.pages.insert_range(run);
                continue;
            }
            let mut rest = GpaRange::of_page_indices(run);
            while let Some(range) = rest {
                let part = match memory.front(range) {
                    Piece::NotRam(part) => {
                        ballooned.complete = false;
                        part
                    }
                    Piece::Ram(part, section) => {
                        let (first, end) = part.page_indices();
                        ballooned.pages.insert_range(first..end);
                        last = match section.backing.in_parts {
                            true => first..end,
                            false => section.gpa.page_indices().0..section.gpa.page_indices().1,
                        };
                        part
                    }
                };
                rest = GpaRange::new(part.end(), range.end());
            }
        }
        Ok(ballooned)
    }
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
