// SPDX-License-Identifier: GPL-2.0-or-later
//! Steps of guest and host in random order, under the real KVM: with the right order
//! of protecting, asking and handling nothing stale ever arrives, with each wrong one
//! something does.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::VecDeque;
use std::io;

use balloon::features::FreePageSource;
use balloon::queue::hint::Hints;
use balloon::wire::ByteOrder;
use kvm::machine::{self, Config, Cpu};
use kvm::memory::Backing;
use kvm::migration::{Migration, hint};
use kvm::program::Program;
use kvm::testing::Case;
use kvm::{MIB, cases};

const CHUNK_SHIFT: u32 = 6;
/// Few enough to meet each other, in three chunks.
const PAGES: [u64; 12] = [0, 1, 2, 63, 64, 65, 66, 127, 128, 129, 130, 131];
const ROUNDS: u32 = 200;
const STEPS: u32 = 60;

/// When the log is armed, and what is done with hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// All of it before hints are asked for.
    ArmFirst,
    /// A chunk when the first hint into it comes, which does not count.
    ArmWanted,
    /// Wrong: all of it, some time after hints were asked for.
    ArmLate,
    /// Wrong: hints are handled after the next synchronization.
    OpenOverSync,
    /// Wrong: the log of a chunk is cleared with the first hint into it.
    ClearOnHandling,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % limit
    }

    fn page(&mut self) -> u64 {
        PAGES[self.below(PAGES.len() as u64) as usize]
    }
}

/// What the guest put into the hint queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Post {
    Id(u32),
    Page(u64),
}

struct World {
    order: Order,
    cpu: Cpu,
    migration: Migration,
    hints: Hints,
    random: Random,
    /// Posted, and not taken by the device. Pages of an old round may be among them.
    queue: VecDeque<Post>,
    /// Hinted, and not written since: what arrives of it does not matter.
    free: Vec<u64>,
    written: u64,
    left_out: u64,
}

impl World {
    fn write(&mut self, page: u64) -> io::Result<()> {
        self.written += 1;
        self.free.retain(|free| *free != page);
        self.cpu.write(page, self.written)
    }

    fn step(&mut self) -> io::Result<()> {
        let page = self.random.page();
        match self.random.below(20) {
            0..5 => self.write(page)?,
            5..10 => {
                self.queue.push_back(Post::Page(page));
                self.free.push(page);
            }
            10..14 => self.take_posts(),
            14..17 if self.order != Order::OpenOverSync => self.handle()?,
            17 => {
                self.migration.send(page)?;
            }
            18 if self.order == Order::ArmLate => self.arm_all(),
            _ => {}
        }
        Ok(())
    }

    /// The device takes what is first in the queue.
    fn take_posts(&mut self) {
        for _ in 0..=self.random.below(4) {
            self.take_post();
        }
    }

    fn take_post(&mut self) {
        match self.queue.pop_front() {
            Some(Post::Id(id)) => self.hints.receive_id(&id.to_le_bytes(), ByteOrder::Little),
            Some(Post::Page(page)) => self.hints.receive_hint(hint(page, 0).range),
            None => self.hints.queue_empty(),
        }
    }

    /// The migration takes what the device has, and arms what is wanted for later.
    fn handle(&mut self) -> io::Result<()> {
        let hints = self.hints.take();
        if self.order != Order::ClearOnHandling {
            self.left_out += self.migration.handle(&hints);
        } else {
            for hint in hints {
                let first = hint.range.host as u64 / kvm::PAGE;
                for page in first..first + hint.range.bytes / kvm::PAGE {
                    self.left_out += u64::from(self.migration.handle_with_log(page)?);
                }
            }
        }
        if self.order == Order::ArmWanted {
            self.migration.arm_wanted();
            self.migration.trust(self.hints.epoch());
        }
        Ok(())
    }

    fn arm_all(&mut self) {
        self.migration.arm_all();
        self.migration.trust_before_round();
    }

    fn ask(&mut self) {
        self.hints.after_sync(true);
        let wanted = self.hints.wanted();
        for _ in 0..2 {
            assert!(!self.hints.request(wanted), "not before the queue is empty");
            self.hints.queue_empty();
        }
        assert!(self.hints.request(wanted));
        self.queue.push_back(Post::Id(self.hints.shown_id()));
    }

    /// One round of hints; gives how many pages hold something stale at its end.
    fn round(&mut self) -> io::Result<usize> {
        for page in PAGES {
            if self.random.below(2) == 0 {
                self.write(page)?;
            }
        }
        self.migration.sync()?;
        if matches!(self.order, Order::ArmFirst | Order::OpenOverSync) {
            self.arm_all();
        }
        self.ask();
        for _ in 0..STEPS {
            self.step()?;
        }
        if self.order == Order::OpenOverSync {
            self.migration.sync()?;
            self.arm_all();
        }
        self.handle()?;
        self.hints.before_sync();
        // The device goes on; what it takes now is late.
        self.take_posts();
        // The guest stands still; the next round begins where this one ended.
        self.migration.finish()?;
        let stale = self.migration.differing();
        Ok(stale
            .iter()
            .filter(|page| !self.free.contains(page))
            .count())
    }
}

/// Runs an order; gives how often a page was stale at the end of a round.
fn stale(case: Case, order: Order) -> Option<usize> {
    let kvm = case.kvm()?;
    let play = || -> io::Result<usize> {
        let config = Config {
            ram_bytes: 2 * MIB,
            backing: Backing::Small,
            tracking: case.tracking,
        };
        let (machine, mut cpu) = machine::build(&kvm, config)?;
        cpu.start(Program::Step, 0)?;
        let mut migration = Migration::new(machine, CHUNK_SHIFT);
        migration.log_on()?;
        let mut hints = Hints::default();
        hints.set_source(FreePageSource::FreePageHint);
        let mut world = World {
            order,
            cpu,
            migration,
            hints,
            random: Random(0x9e37_79b9_7f4a_7c15),
            queue: VecDeque::new(),
            free: Vec::new(),
            written: 0,
            left_out: 0,
        };
        let mut stale = 0;
        for _ in 0..ROUNDS {
            stale += world.round()?;
        }
        // Else nothing was tested.
        let left_out = world.left_out;
        assert!(left_out > 100, "only {left_out} pages were left out");
        Ok(stale)
    };
    Some(play().expect("a guest runs under KVM"))
}

fn nothing_is_stale(case: Case, order: Order) {
    if let Some(pages) = stale(case, order) {
        assert_eq!(pages, 0);
    }
}

fn something_is_stale(case: Case, order: Order) {
    if let Some(pages) = stale(case, order) {
        assert!(pages > 0, "{order:?} was not seen to lose a write");
    }
}

fn run(case: Case, test: fn(Case)) {
    test(case);
}

fn arming_all_before_asking_loses_nothing(case: Case) {
    nothing_is_stale(case, Order::ArmFirst);
}

fn arming_a_chunk_when_its_first_hint_comes_loses_nothing(case: Case) {
    nothing_is_stale(case, Order::ArmWanted);
}

fn a_round_left_open_over_a_synchronization_loses_writes(case: Case) {
    something_is_stale(case, Order::OpenOverSync);
}

fn arming_after_asking_loses_writes(case: Case) {
    something_is_stale(case, Order::ArmLate);
}

fn clearing_the_log_on_handling_loses_writes(case: Case) {
    something_is_stale(case, Order::ClearOnHandling);
}

cases!(run, manual_clear, ManualClear:
    arming_all_before_asking_loses_nothing
    arming_a_chunk_when_its_first_hint_comes_loses_nothing
    a_round_left_open_over_a_synchronization_loses_writes
    arming_after_asking_loses_writes
    clearing_the_log_on_handling_loses_writes
);

cases!(run, read_clears, ReadClears:
    arming_all_before_asking_loses_nothing
    arming_a_chunk_when_its_first_hint_comes_loses_nothing
    a_round_left_open_over_a_synchronization_loses_writes
);

cases!(run, ring, Ring:
    arming_all_before_asking_loses_nothing
    arming_a_chunk_when_its_first_hint_comes_loses_nothing
    a_round_left_open_over_a_synchronization_loses_writes
);
