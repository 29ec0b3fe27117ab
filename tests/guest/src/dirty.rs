// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU's list of dirty pages, and checkpoints of a guest's memory that are made with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use crate::bare::Bare;
use crate::vm::Vm;
use crate::{Error, Result};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// The id of the object.
const ID: &str = "dl0";
/// How the backend of the guest's RAM is called: ours in `config` and in `bare`.
const RAM: &str = "ram0";
/// What a backend of anonymous shared memory looks like among a process's files.
const RAM_FILE: &str = "/memfd:memory-backend-memfd";
/// Read at a time.
const PIECE: usize = 1 << 20;

/// A machine with a monitor.
pub trait Machine {
    /// Runs a monitor command.
    ///
    /// # Errors
    /// When QEMU refuses.
    fn run(&mut self, command: &str, arguments: Value) -> Result<Value>;
    /// The number of QEMU's process.
    fn process(&self) -> u32;
}

impl Machine for Vm {
    fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp(command, arguments)
    }

    fn process(&self) -> u32 {
        self.pid()
    }
}

impl Machine for Bare {
    fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp(command, arguments)
    }

    fn process(&self) -> u32 {
        self.pid()
    }
}

/// QEMU's arguments for the object with properties, which begin with `max-dirty=`.
pub fn object(properties: &str) -> [String; 2] {
    let object = format!("dirty-page-list,id={ID},{properties}");
    ["-object".into(), object]
}

/// What one or more fetches brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Numbers of pages of the guest's RAM.
    pub pages: BTreeSet<u64>,
    /// How many there were, with those that came more than once.
    pub count: u64,
    /// Names of other blocks of memory that pages belong to.
    pub others: BTreeSet<String>,
}

impl Fetched {
    /// Adds what a later fetch brought.
    pub fn add(&mut self, other: &Fetched) {
        self.pages.extend(&other.pages);
        self.count += other.count;
        self.others.extend(other.others.iter().cloned());
    }

    fn of_answer(answer: &Value) -> Result<Fetched> {
        let mut fetched = Fetched::default();
        for range in answer["ranges"].as_array().into_iter().flatten() {
            let number = |name: &str| range[name].as_u64();
            let (Some(block), Some(offset), Some(size)) =
                (range["block"].as_str(), number("offset"), number("size"))
            else {
                return Err(Error::Protocol(format!(
                    "a range without its parts: {range}"
                )));
            };
            fetched.count += size / PAGE;
            if !block.ends_with(RAM) {
                fetched.others.insert(block.into());
                continue;
            }
            // Below 3 GiB a page of RAM is for the guest where it is in the block.
            if number("gpa").is_some_and(|gpa| gpa != offset) {
                return Err(Error::Protocol(format!("a page elsewhere: {range}")));
            }
            fetched.pages.extend(offset / PAGE..(offset + size) / PAGE);
        }
        Ok(fetched)
    }
}

/// Starts to list pages.
///
/// # Errors
/// When QEMU refuses.
pub fn start(vm: &mut impl Machine) -> Result<()> {
    vm.run("dirty-page-list-start", json!({ "id": ID }))
        .map(drop)
}

/// Lists no more pages.
///
/// # Errors
/// When QEMU refuses.
pub fn stop(vm: &mut impl Machine) -> Result<()> {
    vm.run("dirty-page-list-stop", json!({ "id": ID }))
        .map(drop)
}

/// All that was fetched is dealt with.
///
/// # Errors
/// When QEMU refuses.
pub fn reset(vm: &mut impl Machine) -> Result<()> {
    vm.run("dirty-page-list-reset", json!({ "id": ID }))
        .map(drop)
}

/// Takes pages off the list, once.
///
/// # Errors
/// When QEMU refuses.
pub fn fetch(vm: &mut impl Machine, most: u64) -> Result<Fetched> {
    let arguments = json!({ "id": ID, "max-pages": most });
    Fetched::of_answer(&vm.run("dirty-page-list-fetch", arguments)?)
}

/// Takes pages off the list, `most` at a time, until an answer is empty; the machine must
/// be stopped.
///
/// # Errors
/// When QEMU refuses.
pub fn fetch_all(vm: &mut impl Machine, most: u64) -> Result<Fetched> {
    let mut all = Fetched::default();
    loop {
        let some = fetch(vm, most)?;
        if some.count == 0 {
            return Ok(all);
        }
        all.add(&some);
    }
}

/// The same as guest frame numbers, at most `most` of them, once.
///
/// # Errors
/// When QEMU refuses.
pub fn fetch_frames(vm: &mut impl Machine, most: u64) -> Result<BTreeSet<u64>> {
    let arguments = json!({ "id": ID, "max-pages": most, "gfns": true });
    let answer = vm.run("dirty-page-list-fetch", arguments)?;
    let gfns = answer["gfns"].as_array();
    let gfns = gfns.ok_or_else(|| Error::Protocol(format!("no gfns: {answer}")))?;
    let numbers = gfns.iter().filter_map(Value::as_u64);
    let numbers: BTreeSet<u64> = numbers.collect();
    if numbers.len() != gfns.len() {
        return Err(Error::Protocol(
            "a frame comes twice, or is no number".into(),
        ));
    }
    Ok(numbers)
}

/// A property of the list.
///
/// # Errors
/// When there is none of this name.
pub fn property(vm: &mut impl Machine, name: &str) -> Result<Value> {
    let path = format!("/objects/{ID}");
    vm.run("qom-get", json!({ "path": path, "property": name }))
}

/// A property that is a number.
///
/// # Errors
/// When it is none.
pub fn number(vm: &mut impl Machine, name: &str) -> Result<u64> {
    let value = property(vm, name)?;
    value
        .as_u64()
        .ok_or_else(|| Error::Protocol(format!("{name} is {value}")))
}

/// How many pages were listed since the last reset.
///
/// # Errors
/// When there is no list.
pub fn listed(vm: &mut impl Machine) -> Result<u64> {
    Ok(number(vm, "dirty-index")? - number(vm, "reset-index")?)
}

/// The guest's RAM, which is `memory-backend-memfd`, seen from outside.
#[derive(Debug)]
pub struct Ram(File);

impl Ram {
    /// That of a machine.
    ///
    /// # Errors
    /// When it has no such memory.
    pub fn of(vm: &impl Machine) -> Result<Ram> {
        let dir = format!("/proc/{}/fd", vm.process());
        for entry in fs::read_dir(&dir).map_err(Error::io(&dir))? {
            let path = entry.map_err(Error::io(&dir))?.path();
            let is_ram =
                fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with(RAM_FILE));
            if is_ram {
                return File::open(&path).map(Ram).map_err(Error::io(&dir));
            }
        }
        Err(Error::Missing("the guest's memory is in no file".into()))
    }

    /// How large it is.
    ///
    /// # Errors
    /// When the system says so.
    pub fn size(&self) -> Result<u64> {
        let metadata = self
            .0
            .metadata()
            .map_err(Error::io("look at guest memory"))?;
        Ok(metadata.len())
    }

    /// Reads a part of it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read(&self, to: &mut [u8], offset: u64) -> Result<()> {
        let read = self.0.read_exact_at(to, offset);
        read.map_err(Error::io("read guest memory"))
    }
}

/// A copy of a guest's memory, kept by copying the pages that were listed.
#[derive(Debug)]
pub struct Replica {
    ram: Ram,
    copy: Vec<u8>,
}

impl Replica {
    /// A copy of all of it; the machine must be stopped, and the list started.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub fn new(ram: Ram) -> Result<Replica> {
        let mut copy = vec![0; ram.size()? as usize];
        ram.read(&mut copy, 0)?;
        Ok(Replica { ram, copy })
    }

    /// Copies these pages, and no other.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub fn copy(&mut self, fetched: &Fetched) -> Result<()> {
        let pages: Vec<u64> = fetched.pages.iter().copied().collect();
        for run in pages.chunk_by(|a, b| a + 1 == *b) {
            let start = (run[0] * PAGE) as usize;
            let to = &mut self.copy[start..][..run.len() * PAGE as usize];
            self.ram.read(to, start as u64)?;
        }
        Ok(())
    }

    /// Pages in which the guest's memory differs from the copy.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub fn differing(&self) -> Result<Vec<u64>> {
        self.differing_from(&self.ram)
    }

    /// Pages in which another machine's memory differs from the copy.
    ///
    /// # Errors
    /// When the memory cannot be read, or is of another size.
    pub fn differing_from(&self, ram: &Ram) -> Result<Vec<u64>> {
        if ram.size()? != self.copy.len() as u64 {
            return Err(Error::Protocol("memory of another size".into()));
        }
        let mut piece = vec![0; PIECE];
        let mut differing = Vec::new();
        for (nth, copy) in self.copy.chunks(PIECE).enumerate() {
            let now = &mut piece[..copy.len()];
            ram.read(now, (nth * PIECE) as u64)?;
            if *now == *copy {
                continue;
            }
            let page = PAGE as usize;
            let pairs = now.chunks(page).zip(copy.chunks(page));
            let differ = pairs.enumerate().filter(|(_, (a, b))| a != b);
            differing.extend(differ.map(|(p, _)| (nth * PIECE / page + p) as u64));
        }
        Ok(differing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_pages() {
        let answer = json!({ "ranges": [
            { "block": "/objects/ram0", "offset": 8192, "size": 8192, "gpa": 8192 },
            { "block": "ram0", "offset": 0xe0000, "size": 4096 },
            { "block": "pc.rom", "offset": 0, "size": 4096, "gpa": 0xc0000 } ] });
        let fetched = Fetched::of_answer(&answer).unwrap();
        assert_eq!(fetched.pages, BTreeSet::from([2, 3, 0xe0]));
        assert_eq!(fetched.count, 4);
        assert_eq!(fetched.others, BTreeSet::from(["pc.rom".into()]));
        let elsewhere = json!({ "ranges": [
            { "block": "ram0", "offset": 8192, "size": 4096, "gpa": 4096 } ] });
        assert!(Fetched::of_answer(&elsewhere).is_err());
        assert!(Fetched::of_answer(&json!({ "ranges": [{ "block": "ram0" }] })).is_err());
    }
}
