// SPDX-License-Identifier: GPL-2.0-or-later
//! How long the first pass over RAM is held back, so that hints come before the pages they are about.

/// How long the first pass may be held back by default, in milliseconds.
pub const DEFAULT_WINDOW_MS: u32 = 4000;
/// A guest that has not answered after this time is taken not to: its driver is gone, or it is too
/// busy, and the link would stand idle. A Linux guest answers within a few milliseconds.
const ANSWER_MS: u64 = 250;
/// The time over which the rate of hints is looked at, in milliseconds: long against the time between
/// two hints, of a guest that gets little of the host's processors, too; short against what the link
/// would have lost.
const PERIOD_MS: u64 = 50;
/// The rate that is assumed of a link whose bandwidth is not limited, in bytes per millisecond: what
/// one migration thread sends when nothing else limits it, about that of 10 Gbit/s.
const FAST_LINK: u64 = 1 << 20;

/// Says how long to wait for hints: as long as they arrive faster than the link could send the pages.
#[derive(Debug)]
pub struct Window {
    limit_ms: u64,
    link: u64,
    began_ms: u64,
    period_ms: u64,
    period_bytes: u64,
    /// The last period was slow: one may be, if only for the guest's start.
    slow: bool,
}

/// What the guest has said so far in this round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The bytes hinted.
    pub bytes: u64,
    /// Whether the guest has begun to answer.
    pub answered: bool,
    /// Whether no more hints will come.
    pub over: bool,
}

impl Window {
    /// A window that opens at `now_ms` for at most `limit_ms`; `bandwidth` is the link's in bytes per
    /// second, 0 for unlimited.
    pub fn new(limit_ms: u64, bandwidth: u64, now_ms: u64) -> Window {
        Window {
            limit_ms,
            link: match bandwidth {
                0 => FAST_LINK,
                limit => (limit / 1000).clamp(1, FAST_LINK),
            },
            began_ms: now_ms,
            period_ms: now_ms,
            period_bytes: 0,
            slow: false,
        }
    }

    /// How long it has been open, in milliseconds.
    pub fn elapsed_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.began_ms)
    }

    /// How long to wait until this is to be asked again, in milliseconds; `None` when the pass is to
    /// go on.
    pub fn wait_ms(&mut self, now_ms: u64, heard: Heard) -> Option<u64> {
        let elapsed = self.elapsed_ms(now_ms);
        if heard.over || elapsed >= self.limit_ms {
            return None;
        }
        if !heard.answered {
            self.period_ms = now_ms;
            let left = self.limit_ms.min(ANSWER_MS).saturating_sub(elapsed);
            return (left > 0).then_some(left.min(PERIOD_MS));
        }
        let period = now_ms.saturating_sub(self.period_ms);
        if period >= PERIOD_MS {
            let bytes = heard.bytes.saturating_sub(self.period_bytes);
            let slow = bytes < self.link.saturating_mul(period);
            if slow && self.slow {
                return None;
            }
            self.slow = slow;
            self.period_ms = now_ms;
            self.period_bytes = heard.bytes;
            return Some(PERIOD_MS);
        }
        Some(PERIOD_MS - period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn heard(bytes: u64) -> Heard {
        Heard {
            bytes,
            answered: true,
            over: false,
        }
    }

    #[test]
    fn a_closed_window_never_waits() {
        assert_eq!(Window::new(0, 0, 5).wait_ms(5, heard(0)), None);
    }

    #[test]
    fn a_guest_that_does_not_answer_is_not_waited_for_long() {
        let mut window = Window::new(10_000, 0, 1000);
        assert_eq!(window.wait_ms(1000, Heard::default()), Some(PERIOD_MS));
        assert_eq!(window.wait_ms(1240, Heard::default()), Some(10));
        assert_eq!(window.wait_ms(1250, Heard::default()), None);
        let mut window = Window::new(30, 0, 0);
        assert_eq!(window.wait_ms(25, Heard::default()), Some(5));
        assert_eq!(window.wait_ms(30, Heard::default()), None);
    }

    #[test]
    fn it_waits_while_hints_are_faster_than_the_link() {
        let mut window = Window::new(1000, 100 * MIB, 0);
        assert_eq!(window.wait_ms(0, heard(0)), Some(PERIOD_MS));
        assert_eq!(window.wait_ms(7, heard(0)), Some(PERIOD_MS - 7));
        assert_eq!(window.wait_ms(50, heard(6 * MIB)), Some(PERIOD_MS));
        assert_eq!(window.wait_ms(100, heard(10 * MIB)), Some(PERIOD_MS));
        assert_eq!(window.wait_ms(150, heard(14 * MIB)), None, "4 MiB in 50 ms");
    }

    #[test]
    fn one_slow_period_is_forgiven() {
        let mut window = Window::new(1000, 100 * MIB, 0);
        assert_eq!(window.wait_ms(0, heard(0)), Some(PERIOD_MS));
        assert_eq!(window.wait_ms(50, heard(0)), Some(PERIOD_MS), "slow");
        assert_eq!(window.wait_ms(100, heard(90 * MIB)), Some(PERIOD_MS));
        assert_eq!(
            window.wait_ms(150, heard(90 * MIB)),
            Some(PERIOD_MS),
            "slow"
        );
        assert_eq!(window.wait_ms(200, heard(90 * MIB)), None, "slow again");
    }

    #[test]
    fn it_ends_with_the_hints_and_at_its_limit() {
        let mut window = Window::new(100, 1, 0);
        let over = Heard {
            over: true,
            ..heard(9 * MIB)
        };
        assert_eq!(window.wait_ms(1, over), None);
        let mut window = Window::new(100, 1, 0);
        for now in (0..100).step_by(50) {
            assert_eq!(window.wait_ms(now, heard(now * MIB)), Some(PERIOD_MS));
        }
        assert_eq!(window.wait_ms(100, heard(999 * MIB)), None);
    }

    #[test]
    fn a_clock_that_goes_back_does_no_harm() {
        let mut window = Window::new(100, 0, 1000);
        assert!(window.wait_ms(500, heard(0)).is_some());
    }
}
