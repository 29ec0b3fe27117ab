// SPDX-License-Identifier: GPL-2.0-or-later
//! Feature bits, and the queues that follow from them.

use crate::error::Error;
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
        /// Inflate and deflate requests hold ranges. This bit and those below are the numbers that
        /// this device gives to the founding protocols; see [`Numbering`].
        const PAGE_RANGE = 1 << 60;
        /// The request queue exists.
        const HOST_REQUEST = 1 << 61;
        /// Inflate and deflate requests hold chunks.
        const BALLOON_CHUNKS = 1 << 62;
        /// The misc queue exists.
        const MISC_QUEUE = 1 << 63;
    }
}

/// Those of the founding protocols that the series of December 2016 had.
const FIRST_GENERATION: Features = Features::PAGE_RANGE.union(Features::HOST_REQUEST);
/// Those that the series of April 2017 had instead, under the same bits.
const SECOND_GENERATION: Features = Features::BALLOON_CHUNKS.union(Features::MISC_QUEUE);
/// All founding protocols.
pub const FOUNDING: Features = FIRST_GENERATION.union(SECOND_GENERATION);
/// The standard's features that have those bits today.
const TODAY: Features = Features::FREE_PAGE_HINT.union(Features::PAGE_POISON);

/// Which bits stand for the founding protocols where guest and device negotiate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub enum Numbering {
    /// 60 to 63, which no standard uses: beside all others, for modern drivers.
    #[default]
    Private = 0,
    /// 3 and 4, as in the Linux series: instead of the features that have these bits today.
    Historical = 1,
}

impl Numbering {
    /// Whether a device can offer `features` by these bits.
    ///
    /// # Errors
    ///
    /// [`Error::FoundingAndToday`] or [`Error::FoundingGenerations`] when a bit would mean two things.
    pub fn check(self, features: Features) -> Result<(), Error> {
        let founding = features.intersection(FOUNDING);
        if self == Numbering::Private || founding.is_empty() {
            return Ok(());
        }
        if features.intersects(TODAY) {
            return Err(Error::FoundingAndToday);
        }
        if features.intersects(FIRST_GENERATION) && features.intersects(SECOND_GENERATION) {
            return Err(Error::FoundingGenerations);
        }
        Ok(())
    }

    /// The bits that stand for `features`.
    pub fn to_wire(self, features: Features) -> u64 {
        match self {
            Numbering::Private => features.bits(),
            Numbering::Historical => {
                let founding = features.intersection(FOUNDING);
                let [range, request] = [3, 4];
                let bit = |number: u32, either: Features| {
                    u64::from(founding.intersects(either)) << number
                };
                features.difference(founding).bits()
                    | bit(range, Features::PAGE_RANGE | Features::BALLOON_CHUNKS)
                    | bit(request, Features::HOST_REQUEST | Features::MISC_QUEUE)
            }
        }
    }

    /// Those of the features `offered` whose bits are set in `wire`; others mean nothing here.
    pub fn from_wire(self, wire: u64, offered: Features) -> Features {
        let each = offered.iter();
        each.filter(|&feature| wire & self.to_wire(feature) != 0)
            .collect()
    }
}

/// Where free pages are asked for in a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub enum FreePageSource {
    /// Nowhere.
    #[default]
    None = 0,
    /// The free page hint queue.
    FreePageHint = 1,
    /// The request queue.
    HostRequest = 2,
    /// The misc queue.
    MiscQueue = 3,
}

impl FreePageSource {
    /// The one that a driver with these features is asked over. Hinted pages stay allocated in the guest
    /// while they are hinted, unlike those of an answer: they come first.
    pub fn of(negotiated: Features) -> FreePageSource {
        if negotiated.contains(Features::FREE_PAGE_HINT) {
            FreePageSource::FreePageHint
        } else if negotiated.contains(Features::HOST_REQUEST) {
            FreePageSource::HostRequest
        } else if negotiated.contains(Features::MISC_QUEUE) {
            FreePageSource::MiscQueue
        } else {
            FreePageSource::None
        }
    }
}

/// Whether a driver may accept these features together: a request can hold ranges or chunks, not both.
pub fn can_accept(features: Features) -> bool {
    !features.contains(Features::PAGE_RANGE | Features::BALLOON_CHUNKS)
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
    /// What the host asks, and the guest's answers.
    HostRequest = 5,
    /// The same in the format of chunks.
    Misc = 6,
}

/// A queue to offer: what it is for and how many descriptors it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// What it is for.
    pub kind: QueueKind,
    /// Descriptors. A driver may not see more; migration from QEMU's C device needs the same.
    pub size: u16,
}

/// How many queues there always are; that the standard's features add; and founding protocols.
const ALWAYS: usize = 3;
const OF_TODAY: usize = 2;
const OF_FOUNDING: usize = 2;
/// The most queues that a device can have.
pub const MAX_QUEUES: usize = ALWAYS + OF_TODAY + OF_FOUNDING;

/// The queues of a device that offers `features`, in the order of their numbers.
///
/// Numbers follow the queues that are offered, not those negotiated, as in QEMU's C device. The Linux
/// series of the founding protocols put their queue right behind the statistics, where the standard's
/// come today.
pub fn queues(features: Features, numbering: Numbering) -> impl Iterator<Item = QueueSpec> {
    let always: [QueueSpec; ALWAYS] = [
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
    let offered = |feature, kind, size| {
        let queue = QueueSpec { kind, size };
        features.contains(feature).then_some(queue)
    };
    let today: [Option<QueueSpec>; OF_TODAY] = [
        offered(Features::FREE_PAGE_HINT, QueueKind::Hint, 1024),
        offered(Features::REPORTING, QueueKind::Reporting, 32),
    ];
    let founding: [Option<QueueSpec>; OF_FOUNDING] = [
        offered(Features::HOST_REQUEST, QueueKind::HostRequest, 128),
        offered(Features::MISC_QUEUE, QueueKind::Misc, 128),
    ];
    let optional = match numbering {
        Numbering::Private => [today, founding],
        Numbering::Historical => [founding, today],
    };
    let optional = optional.into_iter().flatten().flatten();
    always.into_iter().chain(optional)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(features: Features, numbering: Numbering) -> Vec<QueueKind> {
        queues(features, numbering)
            .map(|queue| queue.kind)
            .collect()
    }

    #[test]
    fn optional_queues_come_behind_the_fixed_ones() {
        use QueueKind::*;
        let kinds = |features| kinds(features, Numbering::Private);
        assert_eq!(kinds(Features::empty()), [Inflate, Deflate, Stats]);
        assert_eq!(
            kinds(Features::REPORTING),
            [Inflate, Deflate, Stats, Reporting]
        );
        assert_eq!(
            kinds(Features::all()),
            [Inflate, Deflate, Stats, Hint, Reporting, HostRequest, Misc]
        );
        assert_eq!(kinds(Features::all()).len(), MAX_QUEUES);
    }

    #[test]
    fn the_request_queue_was_once_the_fourth() {
        use QueueKind::*;
        let kinds = |features| kinds(features, Numbering::Historical);
        assert_eq!(
            kinds(Features::REPORTING | Features::HOST_REQUEST),
            [Inflate, Deflate, Stats, HostRequest, Reporting]
        );
        assert_eq!(kinds(Features::MISC_QUEUE), [Inflate, Deflate, Stats, Misc]);
    }

    #[test]
    fn bits_of_both_numberings() {
        let first = Features::MUST_TELL_HOST | Features::PAGE_RANGE | Features::HOST_REQUEST;
        let second = Features::BALLOON_CHUNKS | Features::MISC_QUEUE | Features::REPORTING;
        let historical = Numbering::Historical;
        assert_eq!(historical.to_wire(first), 0b01_1001);
        assert_eq!(historical.to_wire(second), 0b11_1000);
        assert_eq!(Numbering::Private.to_wire(first), 3 << 60 | 1);
        assert_eq!(historical.from_wire(0b01_1001, first), first);
        assert_eq!(historical.from_wire(0b11_1000, second), second);
        assert_eq!(
            historical.from_wire(1 << 3, second),
            Features::BALLOON_CHUNKS
        );
        assert_eq!(
            historical.from_wire(u64::MAX, Features::empty()),
            Features::empty()
        );
        let all = Features::all();
        assert_eq!(Numbering::Private.from_wire(u64::MAX, all), all);
    }

    #[test]
    fn a_bit_means_one_thing() {
        let first = Features::PAGE_RANGE;
        let check = |features| Numbering::Historical.check(features);
        assert_eq!(check(first | Features::HOST_REQUEST), Ok(()));
        assert_eq!(check(TODAY), Ok(()));
        assert_eq!(check(first | Features::REPORTING), Ok(()));
        for today in TODAY.iter() {
            assert_eq!(check(first | today), Err(Error::FoundingAndToday));
        }
        assert_eq!(
            check(first | Features::MISC_QUEUE),
            Err(Error::FoundingGenerations)
        );
        assert_eq!(Numbering::Private.check(Features::all()), Ok(()));
        assert!(!can_accept(Features::all()));
        assert!(can_accept(FIRST_GENERATION) && can_accept(SECOND_GENERATION));
    }

    #[test]
    fn hints_come_before_answers() {
        let of = FreePageSource::of;
        assert_eq!(of(Features::empty()), FreePageSource::None);
        assert_eq!(of(Features::all()), FreePageSource::FreePageHint);
        let asked = Features::HOST_REQUEST | Features::MISC_QUEUE;
        assert_eq!(of(asked), FreePageSource::HostRequest);
        assert_eq!(of(Features::MISC_QUEUE), FreePageSource::MiscQueue);
    }
}
