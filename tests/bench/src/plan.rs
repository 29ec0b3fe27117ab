// SPDX-License-Identifier: GPL-2.0-or-later
//! What is measured: devices, kinds of memory, orders of pages.

use clap::ValueEnum;

/// What the guest's RAM is made of on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backing {
    /// Anonymous memory in pages of 4 KiB.
    Small,
    /// Anonymous memory in transparent huge pages.
    Thp,
    /// A file of reserved pages of 2 MiB.
    Hugetlb,
    /// A shared file in memory, in pages of 4 KiB.
    Memfd,
}

impl Backing {
    /// All, in the order of the tables.
    pub const ALL: [Backing; 4] = [
        Backing::Small,
        Backing::Thp,
        Backing::Hugetlb,
        Backing::Memfd,
    ];

    /// In tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Backing::Small => "4k",
            Backing::Thp => "thp",
            Backing::Hugetlb => "hugetlb",
            Backing::Memfd => "memfd",
        }
    }
}

/// What a guest does with pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// Pages go into the balloon.
    Inflate,
    /// They come out again.
    Deflate,
    /// Free pages are reported.
    Report,
}

impl Operation {
    /// In tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Inflate => "inflate",
            Operation::Deflate => "deflate",
            Operation::Report => "report",
        }
    }
}

/// A device as a driver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// QEMU's own.
    Stock,
    /// Ours with MUST_TELL_HOST.
    Ours,
    /// Ours with a driver that did not accept MUST_TELL_HOST.
    OursNoMth,
    /// Ours with MUST_TELL_HOST, and requests that hold ranges.
    Ranges,
    /// The same with chunks.
    Chunks,
}

/// Features that drivers here accept; virtio 1.3, 5.5.3 and 6.
const MUST_TELL_HOST: u64 = 1 << 0;
const REPORTING: u64 = 1 << 5;
/// Requests may have more descriptors than their queue.
const INDIRECT: u64 = 1 << 28;
const VERSION_1: u64 = 1 << 32;
const PAGE_RANGE: u64 = 1 << 60;
const BALLOON_CHUNKS: u64 = 1 << 62;

impl Device {
    /// All, in the order of the tables.
    pub const ALL: [Device; 5] = [
        Device::Stock,
        Device::Ours,
        Device::OursNoMth,
        Device::Ranges,
        Device::Chunks,
    ];

    /// In tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Device::Stock => "stock",
            Device::Ours => "ours",
            Device::OursNoMth => "ours-no-mth",
            Device::Ranges => "ranges",
            Device::Chunks => "chunks",
        }
    }

    /// As after `-device`.
    pub fn argument(self) -> &'static str {
        match self {
            Device::Stock => "virtio-balloon-pci-non-transitional,free-page-reporting=on",
            Device::Ours | Device::OursNoMth => {
                "virtio-balloon-rs-pci-non-transitional,free-page-reporting=on"
            }
            Device::Ranges => "virtio-balloon-rs-pci-non-transitional,page-range=on",
            Device::Chunks => "virtio-balloon-rs-pci-non-transitional,balloon-chunks=on",
        }
    }

    /// What the driver accepts.
    pub fn features(self) -> u64 {
        VERSION_1
            | INDIRECT
            | match self {
                Device::Stock | Device::OursNoMth => REPORTING,
                Device::Ours => REPORTING | MUST_TELL_HOST,
                Device::Ranges => MUST_TELL_HOST | PAGE_RANGE,
                Device::Chunks => MUST_TELL_HOST | BALLOON_CHUNKS,
            }
    }

    /// Whether it can be told of free pages.
    pub fn can_report(self) -> bool {
        self.features() & REPORTING != 0
    }
}

/// In which order pages are given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// From the lowest.
    Ascending,
    /// From the highest.
    Descending,
    /// Whole pieces of 2 MiB, in random order.
    Blocks,
    /// In random order, but each kick is of 128 MiB without a gap.
    Shuffled,
    /// In random order over all of the memory.
    Random,
    /// Every second page.
    Alternate,
}

/// Pages of 4 KiB in a huge page.
pub const HUGE_PAGES: u32 = 512;
/// PFNs in one buffer of a Linux driver.
pub const PFNS_A_BUFFER: usize = 256;
/// Buffers before the device is notified.
pub const BUFFERS_A_KICK: usize = 128;
/// PFNs before the device is notified.
pub const PFNS_A_KICK: usize = PFNS_A_BUFFER * BUFFERS_A_KICK;

impl Pattern {
    /// All, in the order of the tables.
    pub const ALL: [Pattern; 6] = [
        Pattern::Ascending,
        Pattern::Descending,
        Pattern::Blocks,
        Pattern::Shuffled,
        Pattern::Random,
        Pattern::Alternate,
    ];

    /// In tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::Ascending => "ascending",
            Pattern::Descending => "descending",
            Pattern::Blocks => "blocks",
            Pattern::Shuffled => "shuffled",
            Pattern::Random => "random",
            Pattern::Alternate => "1 in 2",
        }
    }

    /// Whether it makes sense for whole blocks of free memory.
    pub fn is_of_blocks(self) -> bool {
        matches!(
            self,
            Pattern::Ascending | Pattern::Blocks | Pattern::Alternate
        )
    }

    /// Those of `count` pages that are given away, in order. The same `seed` gives the same order.
    pub fn pages(self, count: u32, seed: u64) -> Vec<u32> {
        let mut random = Random(seed);
        let mut pages: Vec<u32> = (0..count).collect();
        match self {
            Pattern::Ascending => {}
            Pattern::Descending => pages.reverse(),
            Pattern::Blocks => {
                let mut blocks: Vec<u32> = (0..count / HUGE_PAGES).collect();
                random.shuffle(&mut blocks);
                let block = |b: u32| b * HUGE_PAGES..(b + 1) * HUGE_PAGES;
                pages = blocks.into_iter().flat_map(block).collect();
            }
            Pattern::Shuffled => pages
                .chunks_mut(PFNS_A_KICK)
                .for_each(|kick| random.shuffle(kick)),
            Pattern::Random => random.shuffle(&mut pages),
            Pattern::Alternate => pages.retain(|page| page % 2 == 0),
        }
        pages
    }
}

/// Splitmix64: small, quick and good enough to put pages out of order.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Another number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Puts `items` in another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.number() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }
}

/// Pages that follow each other: the first, and how many.
pub type Run = (u32, u32);

/// The pages of `kick` as sorted runs.
pub fn merged(kick: &[u32]) -> Vec<Run> {
    let mut sorted = kick.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for page in sorted {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == page => *count += 1,
            _ => runs.push((page, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u32 = 2 * PFNS_A_KICK as u32;

    #[test]
    fn a_pattern_names_no_page_twice() {
        for pattern in Pattern::ALL {
            let mut pages = pattern.pages(COUNT, 7);
            let all = pages.len();
            pages.sort_unstable();
            pages.dedup();
            assert_eq!(pages.len(), all);
            let part = if pattern == Pattern::Alternate { 2 } else { 1 };
            assert_eq!(all as u32, COUNT / part, "{pattern:?}");
        }
    }

    #[test]
    fn patterns_differ_in_what_a_kick_merges_to() {
        let runs = |pattern: Pattern| merged(&pattern.pages(COUNT, 7)[..PFNS_A_KICK]).len();
        for whole in [Pattern::Ascending, Pattern::Descending, Pattern::Shuffled] {
            assert_eq!(runs(whole), 1, "{whole:?}");
        }
        assert!((2..=64).contains(&runs(Pattern::Blocks)));
        assert!(runs(Pattern::Random) > PFNS_A_KICK / 4);
        assert_eq!(runs(Pattern::Alternate), PFNS_A_KICK);
    }
}
