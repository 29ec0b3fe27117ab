// SPDX-License-Identifier: GPL-2.0-or-later
//! A boot sector whose processors write to one page after another, each to pages of its own,
//! and leave to QEMU after each write.
//!
//! The number of the write is what is written. So the memory itself says which pages were
//! written to since it was last looked at, exactly: nothing else runs, and no interrupt comes.

use std::collections::BTreeSet;

use crate::Result;
use crate::dirty::{PAGE, Ram};

/// The first page that is written to.
const FIRST: u64 = 1 << 20;
/// What the firmware takes for a disk.
const DISK: usize = 1 << 16;
const SECTOR: usize = 512;

/// In 16-bit code, then in 32-bit code with flat segments. The processor that boots copies all
/// of it to 0x8000, where it has the others begin; they jump to the one part at once.
#[rustfmt::skip]
const CODE: &[u8] = &[
    // 0x00: the firmware jumps to 0x7c00
    0xfa,                                       // cli
    0x31, 0xc0,                                 // xor ax, ax
    0x8e, 0xd8,                                 // mov ds, ax
    0x0f, 0x01, 0x16, 0x98, 0x7c,               // lgdt [0x7c98]
    0x0f, 0x20, 0xc0,                           // mov eax, cr0
    0x0c, 0x01,                                 // or al, 1
    0x0f, 0x22, 0xc0,                           // mov cr0, eax
    0xea, 0x17, 0x7c, 0x08, 0x00,               // jmp 8:0x7c17
    // 0x17: 32-bit code
    0x66, 0xb8, 0x10, 0x00,                     // mov ax, 16
    0x8e, 0xd8,                                 // mov ds, eax
    0x8e, 0xc0,                                 // mov es, eax
    0xb8, 0x01, 0x00, 0x00, 0x00,               // mov eax, 1
    0xf0, 0x0f, 0xc1, 0x05, 0x7c, 0x7c, 0, 0,   // lock xadd [0x7c7c], eax
    0x85, 0xc0,                                 // test eax, eax
    0x75, 0x25,                                 // jne 0x55
    0xbe, 0x00, 0x7c, 0x00, 0x00,               // mov esi, 0x7c00
    0xbf, 0x00, 0x80, 0x00, 0x00,               // mov edi, 0x8000
    0xb9, 0x80, 0x00, 0x00, 0x00,               // mov ecx, 128
    0xf3, 0xa5,                                 // rep movsd
    // INIT to all others, and where they start
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x0c, 0x00, // mov [0xfee00300], 0xc4500
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x08, 0x46, 0x0c, 0x00, // mov [0xfee00300], 0xc4608
    // 0x55: eax is the processor's number
    0x69, 0xd8, 0, 0, 0, 0,                     // imul ebx, eax, BYTES
    0x81, 0xc3, 0x00, 0x00, 0x10, 0x00,         // add ebx, 0x100000
    0x31, 0xc9,                                 // xor ecx, ecx
    // 0x63: from its first page on
    0x89, 0xdf,                                 // mov edi, ebx
    0xba, 0, 0, 0, 0,                           // mov edx, PAGES
    // 0x6a: the next page
    0x41,                                       // inc ecx
    0x89, 0x0f,                                 // mov [edi], ecx
    0xe6, 0x80,                                 // out 0x80, al
    0x81, 0xc7, 0x00, 0x10, 0x00, 0x00,         // add edi, 4096
    0x4a,                                       // dec edx
    0x75, 0xf2,                                 // jne 0x6a
    0xeb, 0xe9,                                 // jmp 0x63
    // 0x7a
    0, 0,
    // 0x7c: how many processors came by
    0, 0, 0, 0,
    // 0x80: no segment, code, data
    0, 0, 0, 0, 0, 0, 0, 0,
    0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0,
    0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0,
    // 0x98: the table's size less one, and where it is
    23, 0, 0x80, 0x7c, 0, 0,
];
const BYTES_AT: usize = 0x57;
const PAGES_AT: usize = 0x66;

/// How many processors write to how many pages each.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    /// Processors.
    pub processors: u64,
    /// Pages that each of them goes round in.
    pub pages: u64,
}

impl Boot {
    /// The disk to boot from.
    pub fn disk(self) -> Vec<u8> {
        let mut disk = CODE.to_vec();
        let mut put = |at: usize, value: u64| {
            disk[at..][..4].copy_from_slice(&(value as u32).to_le_bytes());
        };
        put(BYTES_AT, self.pages * PAGE);
        put(PAGES_AT, self.pages);
        disk.resize(DISK, 0);
        disk[SECTOR - 2..SECTOR].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    /// How many writes each of the processors has made. Exact if they do not run.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub fn written(self, ram: &Ram) -> Result<Vec<u64>> {
        let mut page = [0; 4];
        let mut written = Vec::new();
        for processor in 0..self.processors {
            let mut most = 0;
            for nth in 0..self.pages {
                ram.read(&mut page, (self.first(processor) + nth) * PAGE)?;
                most = most.max(u64::from(u32::from_le_bytes(page)));
            }
            written.push(most);
        }
        Ok(written)
    }

    /// The pages that they have written to between `before` and `now`.
    pub fn between(self, before: &[u64], now: &[u64]) -> BTreeSet<u64> {
        let counts = before.iter().zip(now).zip(0..);
        let pages = counts.flat_map(|((&before, &now), processor)| {
            let writes = before..now.min(before + self.pages);
            writes.map(move |n| self.first(processor) + n % self.pages)
        });
        pages.collect()
    }

    /// The first page of a processor.
    pub fn first(self, processor: u64) -> u64 {
        FIRST / PAGE + processor * self.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_boots_and_says_how_many_pages() {
        let boot = Boot {
            processors: 2,
            pages: 0x1234,
        };
        let disk = boot.disk();
        assert_eq!(&disk[510..512], [0x55, 0xaa]);
        assert_eq!(&disk[0x55..0x5b], [0x69, 0xd8, 0x00, 0x40, 0x23, 0x01]);
        assert_eq!(&disk[0x65..0x6a], [0xba, 0x34, 0x12, 0, 0]);
        assert_eq!(disk.len() % SECTOR, 0);
        assert_eq!(CODE[0x98], 23);
    }

    #[test]
    fn pages_go_round() {
        let boot = Boot {
            processors: 2,
            pages: 4,
        };
        let pages = boot.between(&[3, 8], &[5, 8]);
        assert_eq!(pages, BTreeSet::from([0x103, 0x100]));
        assert_eq!(boot.between(&[0, 7], &[100, 8]).len(), 5);
    }
}
