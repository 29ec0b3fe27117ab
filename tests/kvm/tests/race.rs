// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest that runs while it is migrated, under the real KVM: it posts hints at
//! pages and writes them again a moment later, all the time. Whatever the moment at
//! which a hint is handled, nothing stale arrives.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::io;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use kvm::machine::{self, Config, Cpu, Stop};
use kvm::memory::Backing;
use kvm::migration::{Migration, hint};
use kvm::program::{Program, mailbox};
use kvm::testing::Case;
use kvm::{MIB, PAGE, cases};

/// So many pages that most of those hinted are not written a second time in a round,
/// which would make good what was lost.
const RAM: u64 = 32 * MIB;
const CHUNK_SHIFT: u32 = 10;
/// So many rounds are played, and more until what is looked for was seen, up to a limit.
const ROUNDS: u32 = 25;
const MOST_ROUNDS: u32 = 500;
/// How many hints of the guest make a round, and how many of them come before the log is armed
/// where that is the wrong way round.
const HINTS: u64 = 1000;
const EARLY: u64 = HINTS / 4;
/// So often is looked for them: a guest that posts none fails, and does not hang.
const LOOKS: u32 = 100_000;
/// Time for some hints to gather, and to be too late for a page that was sent.
const BETWEEN: Duration = Duration::from_micros(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    ArmFirst,
    /// Wrong.
    AskFirst,
}

struct World {
    order: Order,
    migration: Migration,
    round: u64,
    left_out: u64,
    next_to_send: u64,
}

impl World {
    fn mail(&self, word: u64) -> u64 {
        self.migration.machine().mail(word).load(Ordering::SeqCst)
    }

    fn set_mail(&self, word: u64, value: u64) {
        let word = self.migration.machine().mail(word);
        word.store(value, Ordering::SeqCst);
    }

    /// Handles what the guest has posted up to now.
    fn handle(&mut self) {
        let mut taken = self.mail(mailbox::TAKEN);
        while taken < self.mail(mailbox::POSTED) {
            let at = taken % mailbox::HINTS_LEN * 8;
            let posted = self.mail(mailbox::HINTS + at);
            taken += 1;
            self.set_mail(mailbox::TAKEN, taken);
            // Hints of another round do not count: a synchronization came between.
            if posted >> 32 == self.round {
                let hints = [hint(posted & u64::from(u32::MAX), 1)];
                self.left_out += self.migration.handle(&hints);
            }
        }
    }

    fn send_some(&mut self) -> io::Result<()> {
        let first = self.next_to_send;
        let end = (first + 8).min(RAM / PAGE);
        self.migration.send_range(first..end)?;
        self.next_to_send = end % (RAM / PAGE);
        Ok(())
    }

    /// A round of hints while the guest runs, then the end of a migration; gives how
    /// many pages are stale.
    fn round(&mut self, cpu: &mut Cpu) -> io::Result<usize> {
        self.round += 1;
        cpu.start(Program::Churn, RAM / PAGE - 1)?;
        thread::scope(|scope| {
            let guest = scope.spawn(|| {
                while cpu.run()? == Stop::RingFull {}
                io::Result::Ok(())
            });
            let played = self.play();
            self.set_mail(mailbox::STOP, 1);
            guest.join().expect("the guest's thread lives")?;
            played
        })?;
        // What was posted before the end still belongs to the round.
        self.handle();
        self.set_mail(mailbox::ROUND, 0);
        self.migration.finish()?;
        Ok(self.migration.differing().len())
    }

    fn play(&mut self) -> io::Result<()> {
        self.migration.start_over();
        if self.order == Order::AskFirst {
            self.set_mail(mailbox::ROUND, self.round);
            let early = self.mail(mailbox::POSTED) + EARLY;
            self.look_until(|world| {
                thread::sleep(BETWEEN);
                Ok(world.mail(mailbox::POSTED) >= early)
            })?;
        }
        self.migration.sync()?;
        self.migration.arm_all();
        self.migration.trust_before_round();
        self.set_mail(mailbox::ROUND, self.round);
        let end = self.mail(mailbox::TAKEN) + HINTS;
        self.look_until(|world| {
            world.handle();
            world.send_some()?;
            thread::sleep(BETWEEN);
            Ok(world.mail(mailbox::TAKEN) >= end)
        })
    }

    /// Does it again and again until it says that it is done.
    fn look_until(
        &mut self,
        mut look: impl FnMut(&mut World) -> io::Result<bool>,
    ) -> io::Result<()> {
        for _ in 0..LOOKS {
            if look(self)? {
                return Ok(());
            }
        }
        Err(io::Error::other("the guest posts too few hints"))
    }
}

/// Plays the rounds; gives how many pages were stale at their ends.
fn stale(case: Case, order: Order) -> Option<usize> {
    let kvm = case.kvm()?;
    let play = || -> io::Result<usize> {
        let config = Config {
            ram_bytes: RAM,
            backing: Backing::Huge,
            tracking: case.tracking,
        };
        let (machine, mut cpu) = machine::build(&kvm, config)?;
        let mut migration = Migration::new(machine, CHUNK_SHIFT);
        migration.log_on()?;
        let mut world = World {
            order,
            migration,
            round: 0,
            left_out: 0,
            next_to_send: 0,
        };
        world.set_mail(mailbox::RANDOM, 0x9e37_79b9_7f4a_7c15);
        let mut stale = 0;
        for round in 1..=MOST_ROUNDS {
            stale += world.round(&mut cpu)?;
            let is_seen = match order {
                Order::ArmFirst => round >= ROUNDS && world.left_out > 0,
                Order::AskFirst => stale > 0,
            };
            if is_seen {
                break;
            }
        }
        // Else nothing was tested.
        assert!(world.left_out > 0, "no page was left out");
        Ok(stale)
    };
    Some(play().expect("a guest runs under KVM"))
}

fn run(case: Case, test: fn(Case)) {
    test(case);
}

fn arming_first_loses_nothing(case: Case) {
    if let Some(pages) = stale(case, Order::ArmFirst) {
        assert_eq!(pages, 0);
    }
}

fn asking_first_loses_writes(case: Case) {
    if let Some(pages) = stale(case, Order::AskFirst) {
        assert!(pages > 0, "no write was seen to be lost");
    }
}

cases!(run, manual_clear, ManualClear:
    arming_first_loses_nothing
    asking_first_loses_writes
);

cases!(run, read_clears, ReadClears:
    arming_first_loses_nothing
    asking_first_loses_writes
);

cases!(run, ring, Ring:
    arming_first_loses_nothing
    asking_first_loses_writes
);
