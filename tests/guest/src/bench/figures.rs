// SPDX-License-Identifier: GPL-2.0-or-later
//! What is measured, and its median and spread.

use super::cpu::CpuTime;
use crate::MIB;

/// One migration. Sizes are in bytes.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The device's name.
    pub variant: String,
    /// Counted from 1.
    pub round: u32,
    /// Memory in use in the guest, with what its kernel took at boot.
    pub in_use: u64,
    /// The same as the guest's kernel counts it: MemTotal - MemFree.
    pub in_use_by_kernel: u64,
    /// From the command to the end.
    pub total_ms: u64,
    /// How long the guest stood still.
    pub down_ms: u64,
    /// Memory and its headers that went over the link.
    pub sent: u64,
    /// Pages that the migration looked at: those sent whole and those found to be zero.
    pub pages: u64,
    /// Those of them that were zero.
    pub zero_pages: u64,
    /// How often the list of dirty pages was fetched.
    pub passes: u64,
    /// Processor time of the source.
    pub source_cpu: CpuTime,
    /// Processor time of the destination.
    pub destination_cpu: CpuTime,
    /// Host memory behind the guest's RAM afterwards.
    pub resident: u64,
    /// What our device says of its hints.
    pub hints: Option<Hints>,
}

/// What only our device counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints {
    /// How long the first pass was held back.
    pub wait_ms: u64,
    /// Left out of the migration since the guest hinted it.
    pub left_out: u64,
    /// Left out since it is in the balloon.
    pub ballooned_left_out: u64,
}

/// One line of the tables, one field of the raw figures, of one kind of runs.
#[derive(Debug)]
pub struct Figure<R = Run> {
    /// In the raw figures.
    pub key: &'static str,
    /// In the tables, with the unit.
    pub title: &'static str,
    /// Digits behind the point in the tables.
    pub digits: usize,
    /// The value in that unit; `None` where the device does not say.
    pub of: fn(&R) -> Option<f64>,
}

/// A figure with all its parts.
pub(super) const fn figure<R>(
    key: &'static str,
    title: &'static str,
    digits: usize,
    of: fn(&R) -> Option<f64>,
) -> Figure<R> {
    Figure {
        key,
        title,
        digits,
        of,
    }
}

/// Total time, in ms.
pub const TOTAL: Figure = figure("total_ms", "total time, ms", 0, |r| Some(r.total_ms as f64));
/// Bytes sent, in MiB.
pub const SENT: Figure = figure("sent_mib", "sent, MiB", 0, |r| Some(mib(r.sent)));
/// Memory in use, in MiB.
pub const IN_USE: Figure = figure("in_use_mib", "in use, MiB", 0, |r| Some(mib(r.in_use)));
/// Bytes sent for each byte in use.
pub const SENT_PER_IN_USE: Figure = figure("sent_per_in_use", "sent / in use", 2, |r| {
    Some(r.sent as f64 / r.in_use.max(1) as f64)
});
/// The same, held against the guest's own view.
pub const SENT_PER_KERNEL: Figure = figure(
    "sent_per_in_use_by_kernel",
    "  sent / (MemTotal - MemFree)",
    2,
    |r| Some(r.sent as f64 / r.in_use_by_kernel.max(1) as f64),
);
/// Processor time of both sides without the guest's own, in ms.
pub const CPU: Figure = figure("cpu_ms", "CPU of both without the guest, ms", 0, |r| {
    Some((r.source_cpu.qemu_ms + r.destination_cpu.qemu_ms) as f64)
});

/// All figures, in the order of the tables.
pub const FIGURES: [Figure; 18] = [
    TOTAL,
    figure("down_ms", "down time, ms", 0, |r| Some(r.down_ms as f64)),
    SENT,
    figure("pages", "pages scanned", 0, |r| Some(r.pages as f64)),
    figure("zero_pages", "  of these zero", 0, |r| {
        Some(r.zero_pages as f64)
    }),
    figure("passes", "passes", 0, |r| Some(r.passes as f64)),
    figure("source_cpu_ms", "CPU of the source, ms", 0, |r| {
        Some(r.source_cpu.qemu_ms as f64)
    }),
    figure("source_guest_cpu_ms", "  and of its guest, ms", 0, |r| {
        Some(r.source_cpu.guest_ms as f64)
    }),
    figure("destination_cpu_ms", "CPU of the destination, ms", 0, |r| {
        Some(r.destination_cpu.qemu_ms as f64)
    }),
    CPU,
    figure("resident_mib", "destination resident, MiB", 0, |r| {
        Some(mib(r.resident))
    }),
    IN_USE,
    figure(
        "in_use_by_kernel_mib",
        "  MemTotal - MemFree, MiB",
        0,
        |r| Some(mib(r.in_use_by_kernel)),
    ),
    SENT_PER_IN_USE,
    SENT_PER_KERNEL,
    figure("hint_wait_ms", "hint-wait-ms", 0, |r| {
        Some(r.hints?.wait_ms as f64)
    }),
    figure("hint_left_out_mib", "hint-left-out, MiB", 0, |r| {
        Some(mib(r.hints?.left_out))
    }),
    figure(
        "ballooned_left_out_mib",
        "ballooned-left-out, MiB",
        0,
        |r| Some(mib(r.hints?.ballooned_left_out)),
    ),
];

/// Bytes as MiB.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

/// A figure over some runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle value, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// `figure` over `runs`; `None` where none of them has it.
    pub fn of<'a, R: 'a>(figure: &Figure<R>, runs: impl Iterator<Item = &'a R>) -> Option<Spread> {
        let mut values: Vec<f64> = runs.filter_map(figure.of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = values[(values.len() - 1) / 2];
        Some(Spread {
            median: (lower + upper) / 2.0,
            least: values[0],
            most: values[values.len() - 1],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(times: &[u64]) -> Option<Spread> {
        let runs: Vec<Run> = times
            .iter()
            .map(|&total_ms| Run {
                total_ms,
                ..Run::default()
            })
            .collect();
        Spread::of(&TOTAL, runs.iter())
    }

    #[test]
    fn the_median_is_no_outlier() {
        let odd = spread(&[5, 900, 4]).unwrap();
        assert_eq!((odd.least, odd.median, odd.most), (4.0, 5.0, 900.0));
        assert_eq!(spread(&[4, 6]).unwrap().median, 5.0);
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn what_a_device_does_not_say_is_no_zero() {
        let runs = [Run::default()];
        let waits = FIGURES.iter().find(|f| f.key == "hint_wait_ms").unwrap();
        assert_eq!(Spread::of(waits, runs.iter()), None);
    }
}
