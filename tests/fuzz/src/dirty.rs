// SPDX-License-Identifier: GPL-2.0-or-later
//! The dirty list between processors that write and two readers that copy: no write is missing in
//! either copy, unless the list said that it has lost pages.
//!
//! A page is known by its number alone, and holds a count of its writes.

use dirty_pages::{DirtyList, DirtyOptions, Error, MACHINE, VERSION};

use crate::input::Input;

/// Writers: two processors, and what is none.
const WRITERS: [usize; 3] = [0, 1, MACHINE];
/// Where pages lie that are written to: in a few chunks of marks, and in two tables of them.
const PLACES: [u64; 4] = [0, 32_700, 1 << 28, (1 << 40) - 2000];
/// How far from such a place a write begins.
const APART: u64 = 600;
/// More than the smallest ring has room for.
const MOST_AT_ONCE: u64 = 400;
/// Pages of a place: as far as writes reach, and a few more.
const SPAN: usize = 1024;
const _: () = assert!(APART + MOST_AT_ONCE <= SPAN as u64);
/// All pages that may be written to. The model numbers them through.
const PAGES: usize = PLACES.len() * SPAN;
/// Words with a bit for each.
const WORDS: usize = PAGES / 64;
/// Steps in a run; floods make a step long.
const STEPS: usize = 200;

/// How often each page was written to when it was copied.
#[derive(Clone, PartialEq)]
struct Contents(Vec<u32>);

impl Default for Contents {
    fn default() -> Contents {
        Contents(vec![0; PAGES])
    }
}

/// Some of the pages.
#[derive(Clone)]
struct Pages([u64; WORDS]);

impl Default for Pages {
    fn default() -> Pages {
        Pages([0; WORDS])
    }
}

impl Pages {
    /// Adds a page; whether it was not there before.
    fn add(&mut self, number: usize) -> bool {
        let (word, bit) = (&mut self.0[number / 64], 1 << (number % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn remove(&mut self, number: usize) {
        self.0[number / 64] &= !(1 << (number % 64));
    }

    fn take_first(&mut self) -> Option<usize> {
        let word = self.0.iter().position(|&word| word != 0)?;
        let number = word * 64 + self.0[word].trailing_zeros() as usize;
        self.remove(number);
        Some(number)
    }

    /// Moves all of `other` here.
    fn take_all(&mut self, other: &mut Pages) {
        for (word, from) in self.0.iter_mut().zip(&mut other.0) {
            *word |= std::mem::take(from);
        }
    }
}

/// The number of a page, if it is one of those that are written to.
fn number_of(page: u64) -> Option<usize> {
    PLACES.iter().enumerate().find_map(|(place, start)| {
        let at = page.checked_sub(*start)? as usize;
        (at < SPAN).then_some(place * SPAN + at)
    })
}

/// The consumer of the list, a tool that makes checkpoints.
#[derive(Default)]
struct Consumer {
    /// Whether the list notes for it, and has lost nothing.
    sound: bool,
    copy: Contents,
    /// Fetched pages that are not cleared and copied yet.
    fetched: Vec<u64>,
}

/// A migration.
#[derive(Default)]
struct Migration {
    active: bool,
    copy: Contents,
    to_send: Pages,
}

struct Machine {
    list: DirtyList,
    memory: Contents,
    dirty: Pages,
    consumer: Consumer,
    migration: Migration,
}

/// Takes the input for a course of writes and reads.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let options = DirtyOptions {
        version: VERSION,
        no_dups: input.any(),
        max_dirty: input.pick(&[256, 1, 257, 512]),
        dirty_trigger: input.pick(&[0, 1, 100, 256]),
        vcpus: input.pick(&[2, 1, 0]),
    };
    let list = match DirtyList::new(options) {
        Ok(list) => list,
        Err(error) => {
            assert_eq!(error, Error::Trigger, "{options:?}");
            return;
        }
    };
    let mut machine = Machine {
        list,
        memory: Contents::default(),
        dirty: Pages::default(),
        consumer: Consumer::default(),
        migration: Migration::default(),
    };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        machine.step(&mut input);
    }
    machine.end();
}

impl Machine {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(16) {
            0..5 => self.write(input, 1),
            5 => self.write(input, MOST_AT_ONCE),
            6..9 => drop(self.fetch(input.pick(&[1, 7, 64, 1000]))),
            9 => self.copy_fetched(),
            10 => self.note_nonsense(input),
            11 => self.start(),
            12 => self.reset(),
            13 => self.synchronize(input.pick(&[1, 10, 512])),
            14 => self.send(input.index(100)),
            _ if input.one_in(4) => self.end_migration(),
            _ => self.stop(),
        }
    }

    /// A writer sets the bits of pages; those that were clear are noted, word by word as QEMU does.
    fn write(&mut self, input: &mut Input<'_>, most: u64) {
        let writer = input.pick(&WRITERS);
        let place = input.index(PLACES.len());
        let first = input.below(APART);
        let count = 1 + input.below(most);
        let mut word = (0, 0);
        for at in first..first + count {
            let (number, page) = (place * SPAN + at as usize, PLACES[place] + at);
            self.memory.0[number] += 1;
            if page / 64 != word.0 {
                self.note(writer, word);
                word = (page / 64, 0);
            }
            if self.dirty.add(number) {
                word.1 |= 1 << (page % 64);
            }
        }
        self.note(writer, word);
    }

    fn note(&self, writer: usize, (word, bits): (u64, u64)) {
        if bits != 0 {
            self.list.note(writer, word * 64, bits);
        }
    }

    /// A page that no list has room for is lost to whoever listens, and that is said.
    fn note_nonsense(&mut self, input: &mut Input<'_>) {
        let page = input.pick(&[1 << 40, u64::MAX, (1 << 40) - 63]);
        self.list.note(input.pick(&WRITERS), page, 1 << 63);
        self.consumer.sound = false;
    }

    fn start(&mut self) {
        let may = !self.migration.active && self.consumer.fetched.is_empty();
        if !may {
            return;
        }
        self.list.stop();
        assert_eq!(self.list.start(), Ok(()));
        self.dirty = Pages::default();
        self.consumer.copy = self.memory.clone();
        self.consumer.sound = true;
    }

    fn stop(&mut self) {
        if self.consumer.fetched.is_empty() {
            self.list.stop();
            self.consumer.sound = false;
        }
    }

    fn reset(&mut self) {
        let answer = self.list.reset();
        assert!(matches!(answer, Ok(_) | Err(Error::Inactive)));
    }

    fn fetch(&mut self, most: usize) -> usize {
        self.copy_fetched();
        let mut out = vec![0; most];
        match self.list.fetch(&mut out) {
            Ok(count) => {
                out.truncate(count);
                assert!(out.is_sorted_by(|a, b| a < b), "{out:?}");
                self.consumer.fetched = out;
                count
            }
            Err(error) => {
                let lost = [Error::Overflow, Error::Inactive];
                assert!(lost.contains(&error), "{error:?}");
                self.consumer.sound = false;
                0
            }
        }
    }

    /// The bits are cleared, and then the pages are read; a write in between is in the copy.
    fn copy_fetched(&mut self) {
        for page in std::mem::take(&mut self.consumer.fetched) {
            if let Some(number) = number_of(page) {
                self.dirty.remove(number);
                self.consumer.copy.0[number] = self.memory.0[number];
            }
        }
    }

    /// The big lock keeps a synchronization from coming between a fetch and the clearing of its
    /// bits.
    fn synchronize(&mut self, most: usize) {
        self.copy_fetched();
        let listed = self.list.sync_begin();
        if !self.migration.active {
            assert!(!listed, "a list that was just started has no page");
            self.migration.active = true;
            self.migration.to_send = Pages([u64::MAX; WORDS]);
        }
        let mut out = vec![0; most];
        loop {
            let count = self.list.sync_fetch(&mut out).expect("it has begun");
            if count == 0 {
                break;
            }
            for number in out[..count].iter().copied().filter_map(number_of) {
                self.dirty.remove(number);
                self.migration.to_send.add(number);
            }
        }
        if !listed {
            self.migration.to_send.take_all(&mut self.dirty);
        }
    }

    fn send(&mut self, most: usize) {
        for _ in 0..most {
            let Some(number) = self.migration.to_send.take_first() else {
                return;
            };
            self.migration.copy.0[number] = self.memory.0[number];
        }
    }

    fn end_migration(&mut self) {
        if self.migration.active {
            self.list.sync_end();
            self.migration = Migration::default();
        }
    }

    /// The machine stops, and everybody looks once more.
    fn end(&mut self) {
        while self.fetch(1000) > 0 {}
        if self.migration.active {
            self.synchronize(1000);
            self.send(usize::MAX);
            assert!(self.migration.copy == self.memory, "the migration's copy");
        }
        if self.consumer.sound {
            assert!(self.consumer.copy == self.memory, "the consumer's copy");
        }
    }
}
