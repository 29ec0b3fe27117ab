// SPDX-License-Identifier: GPL-2.0-or-later
//! The request and misc queues: a driver that answers requests, and the device's side of its queue.
//!
//! Unlike hinted pages, those of an answer are not held: the driver looks which pages are free, writes
//! them down, and sends that later. Any of them may be in use by then.

use std::collections::VecDeque;

use super::guest::{Guest, Usage};
use super::ram::{PAGES, Ram, SIZES, place};
use super::world::{Step, World};
use balloon::device::{AnswerPart, Balloon, Options};
use balloon::features::FreePageSource;
use balloon::memory::{Backing, MemoryMap, Section};
use balloon::page::{Gpa, GpaRange, PAGE_SIZE};
use balloon::queue::hint::Hints;

/// Bytes of a message that the device reads at a time: headers and entries are cut.
const PART: usize = 13;

/// What the driver puts into the queue.
#[derive(Clone, Debug)]
enum Posted {
    Buffer,
    Message(Vec<u8>),
}

/// What the driver knows of its queue.
#[derive(Debug)]
struct Driver {
    ring: VecDeque<Posted>,
    /// The buffer for requests is not with the device.
    has_buffer: bool,
    /// Requests that came and were not looked at, by id.
    came: VecDeque<u32>,
    /// The request that is being answered.
    answers: Option<u32>,
    /// Pages that were free when they were written down: the first, and how many.
    written_down: Vec<(usize, usize)>,
    /// All that was written down for this answer.
    named: Vec<usize>,
}

impl Driver {
    /// One that has just started, with a buffer in its queue.
    fn new() -> Driver {
        Driver {
            ring: VecDeque::from([Posted::Buffer]),
            has_buffer: false,
            came: VecDeque::new(),
            answers: None,
            written_down: Vec::new(),
            named: Vec::new(),
        }
    }

    fn offer_buffer(&mut self) {
        if std::mem::take(&mut self.has_buffer) {
            self.ring.push_back(Posted::Buffer);
        }
    }

    fn notice(&mut self) {
        if self.answers.is_none() {
            self.answers = self.came.pop_front();
            self.named.clear();
        }
    }

    /// Writes down the next free pages from `page` on, at most `count`.
    fn write_down(&mut self, guest: &Guest, page: usize, count: usize) {
        let is_free = |page: &usize| guest.usage[*page] == Usage::Free;
        let first = (page..PAGES).chain(0..page).find(is_free);
        let (Some(first), Some(_)) = (first, self.answers) else {
            return;
        };
        let (block, at) = place(first);
        let end = first + count.min(SIZES[block] - at);
        let count = (first..end).take_while(is_free).count();
        self.written_down.push((first, count));
        self.named.extend(first..first + count);
    }
}

/// The queue that requests go over.
pub(crate) struct Asker {
    pub(crate) source: FreePageSource,
    driver: Driver,
    balloon: Balloon,
    /// The device holds the buffer, and popped so many elements since.
    held: Option<u32>,
    /// The message that the device is reading, and how far it came.
    reading: Option<(Vec<u8>, usize)>,
}

/// Where the guest sees a block.
fn gpa(ram: &Ram, page: usize) -> u64 {
    let (block, _) = place(page);
    ((block as u64) << 40) + ram.block_range(page, 1).offset
}

fn section(ram: &Ram, first: usize, pages: usize) -> Section {
    let range = ram.block_range(first, pages);
    let start = Gpa(gpa(ram, first));
    Section {
        gpa: GpaRange::with_len(start, range.bytes).expect("a range"),
        block: range.block,
        offset: 0,
        page_size: PAGE_SIZE,
        host: ram.host_range(first, pages).host,
        backing: Backing::default(),
    }
}

fn device(ram: &Ram) -> Balloon {
    let mut balloon = Balloon::new(Options::default());
    let mut first = 0;
    let sections = SIZES.iter().map(|&pages| {
        first += pages;
        section(ram, first - pages, pages)
    });
    let map = MemoryMap::new(sections.collect()).expect("a map that can be");
    balloon.set_memory(map);
    balloon
}

impl Asker {
    pub(crate) fn new(source: FreePageSource, ram: &Ram) -> Asker {
        Asker {
            source,
            driver: Driver::new(),
            balloon: device(ram),
            held: None,
            reading: None,
        }
    }

    /// The next message of the answer, with all that was written down.
    fn message(&mut self, ram: &Ram, is_last: bool) -> Option<Vec<u8>> {
        let id = self.driver.answers?;
        let pages = std::mem::take(&mut self.driver.written_down);
        if pages.is_empty() && !is_last {
            return None;
        }
        let ranges = pages.iter().map(|&(first, count)| {
            let bytes = ram.block_range(first, count).bytes;
            (gpa(ram, first), bytes)
        });
        let done = u8::from(is_last);
        let mut message = Vec::new();
        if self.source == FreePageSource::MiscQueue {
            message.extend([0, 0, done, 0]);
            message.extend((pages.len() as u32).to_le_bytes());
            for (gpa, bytes) in ranges {
                message.extend(gpa.to_le_bytes());
                message.extend(bytes.to_le_bytes());
            }
        } else {
            message.extend([0, done]);
            message.extend((id as u16).to_le_bytes());
            message.extend((pages.len() as u32 * 16).to_le_bytes());
            for (gpa, bytes) in ranges {
                message.extend(gpa.to_le_bytes());
                message.extend((bytes / PAGE_SIZE).to_le_bytes());
            }
        }
        Some(message)
    }

    fn submit(&mut self, ram: &Ram, is_last: bool) {
        if let Some(message) = self.message(ram, is_last) {
            self.driver.ring.push_back(Posted::Message(message));
            if is_last {
                self.driver.answers = None;
                self.driver.offer_buffer();
            }
        }
    }

    /// The device puts a request into the buffer that it holds, if there is one to send.
    fn send_request(&mut self, hints: &mut Hints) {
        if self.held.is_none() {
            return;
        }
        if let Some(id) = hints.take_request(self.source) {
            self.held = None;
            self.driver.has_buffer = true;
            self.driver.came.push_back(id);
        }
    }

    /// The device reads on in a message, or takes the next element; says whether there was one.
    fn pop(&mut self, hints: &mut Hints) -> bool {
        if self.reading.is_some() {
            self.read_on(hints);
            return true;
        }
        let Some(posted) = self.driver.ring.pop_front() else {
            return false;
        };
        self.held = self.held.map(|popped| popped + 1);
        match posted {
            Posted::Buffer if self.held.is_none() => {
                self.held = Some(0);
                hints.receive_buffer(self.source);
            }
            Posted::Buffer => self.driver.has_buffer = true,
            Posted::Message(message) => self.reading = Some((message, 0)),
        }
        true
    }

    fn read_on(&mut self, hints: &mut Hints) {
        let Some((message, at)) = self.reading.take() else {
            return;
        };
        let end = (at + PART).min(message.len());
        let part = AnswerPart {
            payload: &message[at..end],
            total: message.len() as u64,
            first: at == 0,
            last: end == message.len(),
        };
        self.balloon.receive_answer(hints, self.source, part);
        if end < message.len() {
            self.reading = Some((message, end));
        }
    }

    /// What the device has of the queue goes back to its ring, as when the machine is stopped.
    fn give_back(&mut self, hints: &mut Hints) {
        let mut popped_since = self.held.take();
        let had_buffer = popped_since.is_some();
        if let Some((message, _)) = self.reading.take() {
            self.driver.ring.push_front(Posted::Message(message));
            popped_since = popped_since.map(|popped| popped - 1);
        }
        match popped_since {
            Some(0) => self.driver.ring.push_front(Posted::Buffer),
            _ => self.driver.has_buffer |= had_buffer,
        }
        hints.lose_buffer(self.source);
    }

    /// A driver that starts with a queue in which nothing is.
    fn restart(&mut self) {
        self.driver = Driver::new();
        self.held = None;
        self.reading = None;
    }
}

impl World {
    /// A step of the guest or the device that has to do with requests; says whether it was one.
    pub(crate) fn step_of_asker(&mut self, step: &Step) -> bool {
        let Some(asker) = &mut self.asker else {
            return false;
        };
        let (hints, driver) = (&mut self.hints, &mut asker.driver);
        match *step {
            Step::Notice => driver.notice(),
            Step::Post(page, count) => driver.write_down(&self.guest, page, count),
            Step::WriteHeld(number) => {
                let named = driver.named.clone();
                self.write_one_of(&named, number);
            }
            Step::Submit => asker.submit(&self.ram, false),
            Step::PostStop => asker.submit(&self.ram, true),
            Step::OfferBuffer => driver.offer_buffer(),
            Step::GiveBack => asker.give_back(hints),
            Step::ResetQueue => {
                asker.restart();
                hints.reset_queue(asker.source);
            }
            Step::Move => self.go_elsewhere(),
            Step::Reset => {
                asker.restart();
                asker.balloon.reset();
                return false;
            }
            _ => return false,
        }
        true
    }

    /// The device looks at the queue of requests, if there is one; says whether it saw it empty.
    pub(crate) fn pop_answers(&mut self, count: usize) -> Option<bool> {
        let asker = self.asker.as_mut()?;
        asker.send_request(&mut self.hints);
        Some((0..count).any(|_| !asker.pop(&mut self.hints)))
    }

    /// The machine goes on elsewhere, in a device that loads what this one saves. Memory and the
    /// driver stay as they are.
    fn go_elsewhere(&mut self) {
        self.cancel();
        let Some(asker) = &mut self.asker else {
            return;
        };
        asker.give_back(&mut self.hints);
        let mut hints = Hints::default();
        hints.set_source(asker.source);
        hints.load(self.hints.save()).expect("what was saved");
        self.hints = hints;
        asker.balloon = device(&self.ram);
        self.seen.moved += 1;
    }
}
