// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest that does nothing but write to pages: its firmware is its only program.
//!
//! Behind each write is an `out`, so that it leaves the guest. One that does not would fill a dirty ring
//! of a KVM that is in a virtual machine itself faster than it is read.

/// Pages that are written, over and over.
pub const PAGES: u64 = 1024;
/// From one to the next: each is in a word of the bitmaps of its own. A larger step would touch more huge
/// pages, which the host has to clear first.
const STEP: u32 = 256 << 10;
/// Where the first one is; all are below the gap in a machine's RAM.
const FIRST: u32 = 1 << 30;
const END: u32 = FIRST + PAGES as u32 * STEP;

/// As much as firmware must have; it lies at the end of the first 4 GiB.
const ROM_BYTES: usize = 64 << 10;
const ROM_BASE: u32 = u32::MAX - (ROM_BYTES as u32 - 1);
/// Where a processor begins.
const RESET: usize = ROM_BYTES - 16;
/// Places in the ROM.
const REAL: usize = 0;
const PROTECTED: usize = 0x20;
const GDT: usize = 0x80;
const GDT_POINTER: usize = 0xa0;
/// Selectors of code and data: all 4 GiB, 32 bits. The bits that say that a segment is in use are set, as
/// the processor cannot set them in a ROM.
const SEGMENTS: [u64; 3] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE: u16 = 8;
const DATA: u16 = 16;

/// The firmware.
pub fn rom() -> Vec<u8> {
    let mut rom = vec![0; ROM_BYTES];
    let mut put = |at: usize, parts: &[&[u8]]| {
        let bytes = parts.concat();
        rom[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    let base = |at: usize| (ROM_BASE + at as u32).to_le_bytes();
    // jmp REAL
    let back = (REAL as u16).wrapping_sub(RESET as u16 + 3);
    put(RESET, &[&[0xe9], &back.to_le_bytes()]);
    let real: [&[u8]; 6] = [
        // lgdt cs:[GDT_POINTER], with all 32 bits of the base
        &[0x2e, 0x66, 0x0f, 0x01, 0x16],
        &(GDT_POINTER as u16).to_le_bytes(),
        // mov eax, cr0; or al, 1; mov cr0, eax
        &[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0],
        // jmp CODE:PROTECTED
        &[0x66, 0xea],
        &base(PROTECTED),
        &CODE.to_le_bytes(),
    ];
    put(REAL, &real);
    let protected: [&[u8]; 11] = [
        // mov ax, DATA; mov ds, ax
        &[0x66, 0xb8],
        &DATA.to_le_bytes(),
        &[0x8e, 0xd8],
        // again: inc esi; mov eax, FIRST
        &[0x46, 0xb8],
        &FIRST.to_le_bytes(),
        // next: mov [eax], esi; out 0x80, al
        &[0x89, 0x30, 0xe6, 0x80],
        // add eax, STEP
        &[0x05],
        &STEP.to_le_bytes(),
        // cmp eax, END
        &[0x3d],
        &END.to_le_bytes(),
        // jb next; jmp again
        &[0x72, 0xf0, 0xeb, 0xe8],
    ];
    put(PROTECTED, &protected);
    put(
        GDT,
        &SEGMENTS
            .map(|segment| segment.to_le_bytes())
            .each_ref()
            .map(<[u8; 8]>::as_slice),
    );
    let limit = (size_of_val(&SEGMENTS) - 1) as u16;
    put(GDT_POINTER, &[&limit.to_le_bytes(), &base(GDT)]);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_lead_where_they_should() {
        let rom = rom();
        let word = |at: usize| u16::from_le_bytes([rom[at], rom[at + 1]]);
        let real = (RESET as u16 + 3).wrapping_add(word(RESET + 1));
        assert_eq!(usize::from(real), REAL);
        let body = &rom[PROTECTED..];
        let at = |bytes: &[u8]| {
            let mut all = body.windows(bytes.len());
            all.position(|found| found == bytes).unwrap()
        };
        // jb and jmp are behind cmp and its operand.
        let jb = at(&[0x3d]) + 5;
        assert_eq!(target_of(&rom, jb), at(&[0x89, 0x30]));
        assert_eq!(target_of(&rom, jb + 2), at(&[0x46, 0xb8]));
    }

    fn target_of(rom: &[u8], jump: usize) -> usize {
        let offset = rom[PROTECTED + jump + 1] as i8;
        (jump + 2).wrapping_add_signed(offset.into())
    }
}
