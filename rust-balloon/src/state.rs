// SPDX-License-Identifier: GPL-2.0-or-later
//! What a migration stream carries, validated.

use crate::config::ConfigState;
use crate::device::Balloon;
use crate::error::Error;
use crate::page::PAGE_SIZE;
use crate::queue::stats::Stats;
use crate::wire::STATS;

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
        }
    }

    /// Makes `balloon` go on from here, in a machine that can have `max_ram` bytes of memory.
    ///
    /// `actual` is the guest's own number and may be any.
    ///
    /// # Errors
    ///
    /// [`Error::StateTarget`] or [`Error::StateStats`] when no device can have saved this; nothing
    /// has changed then.
    pub fn load(&self, balloon: &mut Balloon, max_ram: u64) -> Result<(), Error> {
        if u64::from(self.num_pages) > max_ram / PAGE_SIZE {
            return Err(Error::StateTarget);
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
        let config = ConfigState {
            num_pages: self.num_pages,
            actual: self.actual,
            poison_val: self.poison_val,
        };
        balloon.restore(config, stats);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Options;

    const RAM: u64 = 1 << 30;

    fn state() -> State {
        let mut balloon = Balloon::new(Options::default());
        balloon.set_target(RAM / 2, RAM);
        State::save(&balloon, 10)
    }

    #[test]
    fn what_was_saved_loads() {
        let mut balloon = Balloon::new(Options::default());
        let saved = State {
            actual: u32::MAX,
            poison_val: 7,
            stats_last_update: 99,
            ..state()
        };
        saved.load(&mut balloon, RAM).unwrap();
        let again = State::save(&balloon, 10);
        assert_eq!(
            (again.num_pages, again.actual, again.poison_val),
            (1 << 17, u32::MAX, 7)
        );
        assert_eq!(again.stats_last_update, 99);
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut balloon = Balloon::new(Options::default());
        let bad = [
            (
                State {
                    num_pages: (RAM / PAGE_SIZE) as u32 + 1,
                    ..state()
                },
                Error::StateTarget,
            ),
            (
                State {
                    stats_polling_interval: -1,
                    ..state()
                },
                Error::StateStats,
            ),
            (
                State {
                    stats_polling_interval: 1 << 32,
                    ..state()
                },
                Error::StateStats,
            ),
            (
                State {
                    stats_last_update: -5,
                    ..state()
                },
                Error::StateStats,
            ),
        ];
        for (state, error) in bad {
            assert_eq!(state.load(&mut balloon, RAM), Err(error));
            assert_eq!(balloon.config().num_pages, 0);
        }
    }

    #[test]
    fn a_stream_without_statistics_leaves_them() {
        let mut balloon = Balloon::new(Options::default());
        State {
            has_stats: false,
            stats_polling_interval: -1,
            ..state()
        }
        .load(&mut balloon, RAM)
        .unwrap();
        assert_eq!(balloon.stats().last_update, 0);
    }
}
