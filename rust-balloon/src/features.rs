// SPDX-License-Identifier: GPL-2.0-or-later
//! Feature bits, and the queues that follow from them.

use bitflags::bitflags;

bitflags! {
    /// The device's feature bits; virtio 1.3, 5.5.3.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Features: u64 {
        /// The driver tells the device before it uses pages of the balloon.
        const MUST_TELL_HOST = 1 << 0;
        /// The statistics queue exists.
        const STATS_VQ = 1 << 1;
        /// The driver takes pages out of the balloon when the guest runs out of memory.
        const DEFLATE_ON_OOM = 1 << 2;
        /// The free page hint queue exists.
        const FREE_PAGE_HINT = 1 << 3;
        /// The driver says what it fills free pages with.
        const PAGE_POISON = 1 << 4;
        /// The free page reporting queue exists.
        const REPORTING = 1 << 5;
    }
}

/// What a queue is for. Resolved once, when the queues are made; nothing else knows their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum QueueKind {
    /// Pages into the balloon.
    Inflate = 0,
    /// Pages out of the balloon.
    Deflate = 1,
    /// Guest statistics.
    Stats = 2,
    /// Free pages, reported for good.
    Reporting = 3,
    /// Free pages, hinted for a migration.
    Hint = 4,
}

/// A queue to offer: what it is for and how many descriptors it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// What it is for.
    pub kind: QueueKind,
    /// Descriptors. A driver may not see more; migration from QEMU's C device needs the same.
    pub size: u16,
}

/// The queues of a device that offers `features`, in the order of their numbers.
///
/// Numbers follow the queues that are offered, not those negotiated, as in QEMU's C device.
pub fn queues(features: Features) -> impl Iterator<Item = QueueSpec> {
    let always = [
        QueueSpec {
            kind: QueueKind::Inflate,
            size: 128,
        },
        QueueSpec {
            kind: QueueKind::Deflate,
            size: 128,
        },
        QueueSpec {
            kind: QueueKind::Stats,
            size: 128,
        },
    ];
    let reporting = QueueSpec {
        kind: QueueKind::Reporting,
        size: 32,
    };
    let hint = QueueSpec {
        kind: QueueKind::Hint,
        size: 1024,
    };
    always
        .into_iter()
        .chain(features.contains(Features::FREE_PAGE_HINT).then_some(hint))
        .chain(features.contains(Features::REPORTING).then_some(reporting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_queues_come_behind_the_fixed_ones() {
        let kinds = |features| queues(features).map(|queue| queue.kind).collect::<Vec<_>>();
        use QueueKind::*;
        assert_eq!(kinds(Features::empty()), [Inflate, Deflate, Stats]);
        assert_eq!(
            kinds(Features::REPORTING),
            [Inflate, Deflate, Stats, Reporting]
        );
        assert_eq!(
            kinds(Features::all()),
            [Inflate, Deflate, Stats, Hint, Reporting]
        );
    }
}
