// SPDX-License-Identifier: GPL-2.0-or-later
//! Virtqueues in memory that this process shares with the machine: virtio 1.3, 2.7.

use std::fs::File;
use std::os::unix::fs::FileExt;

use guest::{Error, Result};

use crate::pci::Place;

const WRITABLE: u16 = 2;
const NEXT: u16 = 1;
const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;

/// A DIMM of the machine that is a file here: requests are written and answers are seen without
/// a command to QEMU, so they cost the machine nothing.
#[derive(Debug)]
pub struct Window {
    file: File,
    /// Its address in the guest.
    base: u64,
    len: u64,
    taken: u64,
}

impl Window {
    /// The whole of `file`, which has `len` bytes, at the guest's address `base`.
    pub fn new(file: File, base: u64, len: u64) -> Window {
        Window {
            file,
            base,
            len,
            taken: 0,
        }
    }

    /// Guest addresses of `bytes` that nobody has yet, on a page boundary.
    ///
    /// # Errors
    /// When it is full.
    pub fn take(&mut self, bytes: u64) -> Result<u64> {
        let at = self.taken;
        let end = at + bytes.next_multiple_of(4096);
        if end > self.len {
            return Err(Error::Missing("the shared DIMM is too small".into()));
        }
        self.taken = end;
        Ok(self.base + at)
    }

    /// Writes to a guest address inside.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, address - self.base);
        written.map_err(Error::io("write to the shared DIMM"))
    }

    fn read_u16(&self, address: u64) -> Result<u16> {
        let mut bytes = [0; 2];
        let read = self.file.read_exact_at(&mut bytes, address - self.base);
        read.map_err(Error::io("read from the shared DIMM"))?;
        Ok(u16::from_le_bytes(bytes))
    }
}

/// A buffer of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Its guest address.
    pub address: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Whether the device may write to it.
    pub writable: bool,
}

/// A queue; all requests of one filling are answered before the next.
#[derive(Debug)]
pub struct Queue {
    /// Where it lies.
    pub place: Place,
    /// How many requests were ever put in.
    put: u16,
}

impl Queue {
    /// An empty queue in `window`.
    ///
    /// # Errors
    /// When the window is full.
    pub fn new(window: &mut Window, size: u16) -> Result<Queue> {
        let entries = u64::from(size);
        Ok(Queue {
            place: Place {
                size,
                descriptors: window.take(16 * entries)?,
                available: window.take(6 + 2 * entries)?,
                used: window.take(6 + 8 * entries)?,
            },
            put: 0,
        })
    }

    /// Puts requests in; the device sees them when it is notified.
    ///
    /// # Errors
    /// When there are more buffers than descriptors.
    pub fn put(&mut self, window: &Window, requests: &[Vec<Buffer>]) -> Result<()> {
        let size = self.place.size;
        let count: usize = requests.iter().map(Vec::len).sum();
        if count > size.into() {
            return Err(Error::Missing("more buffers than descriptors".into()));
        }
        let mut table = Vec::with_capacity(DESCRIPTOR as usize * count);
        let mut next = 0u16;
        for request in requests {
            self.write_head(window, next)?;
            chain(&mut table, &mut next, request);
        }
        self.show(window, &table)
    }

    /// Puts requests in whose descriptors are in tables of their own, each at the address given
    /// with it. A table can be longer than the queue.
    ///
    /// # Errors
    /// When there are more requests than descriptors.
    pub fn put_indirect(&mut self, window: &Window, requests: &[(u64, Vec<Buffer>)]) -> Result<()> {
        if requests.len() > self.place.size.into() {
            return Err(Error::Missing("more requests than descriptors".into()));
        }
        let mut table = Vec::new();
        for (head, (address, buffers)) in (0u16..).zip(requests) {
            self.write_head(window, head)?;
            let mut inner = Vec::new();
            chain(&mut inner, &mut 0, buffers);
            window.write(*address, &inner)?;
            let len = DESCRIPTOR * buffers.len() as u32;
            descriptor(&mut table, *address, len, INDIRECT, 0);
        }
        self.show(window, &table)
    }

    fn show(&self, window: &Window, table: &[u8]) -> Result<()> {
        window.write(self.place.descriptors, table)?;
        window.write(self.place.available + 2, &self.put.to_le_bytes())
    }

    fn write_head(&mut self, window: &Window, head: u16) -> Result<()> {
        let slot = u64::from(self.put % self.place.size);
        self.put = self.put.wrapping_add(1);
        window.write(self.place.available + 4 + 2 * slot, &head.to_le_bytes())
    }

    /// Whether all requests were answered.
    ///
    /// # Errors
    /// When the window cannot be read.
    pub fn is_answered(&self, window: &Window) -> Result<bool> {
        Ok(window.read_u16(self.place.used + 2)? == self.put)
    }
}

/// Adds the descriptors of one request; `next` is the number of the first, and of the one behind
/// the last.
fn chain(table: &mut Vec<u8>, next: &mut u16, request: &[Buffer]) {
    for (left, buffer) in (0..request.len()).rev().zip(request) {
        *next += 1;
        let more = if left > 0 { NEXT } else { 0 };
        let flags = more | if buffer.writable { WRITABLE } else { 0 };
        descriptor(table, buffer.address, buffer.len, flags, *next);
    }
}

fn descriptor(table: &mut Vec<u8>, address: u64, len: u32, flags: u16, next: u16) {
    table.extend(address.to_le_bytes());
    table.extend(len.to_le_bytes());
    table.extend(flags.to_le_bytes());
    table.extend(next.to_le_bytes());
}
