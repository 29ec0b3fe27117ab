// SPDX-License-Identifier: GPL-2.0-or-later
//! The configuration space as one image.

use crate::features::Features;
use crate::page::PAGE_SIZE;
use crate::wire::{Config, HINT_STOP};
use std::mem::offset_of;
use zerocopy::IntoBytes;

/// How many bytes of [`Config`] a device that offers `features` shows.
///
/// The sizes are those of QEMU's C device, as a migration stream between the two needs;
/// `qemu_4_0_size` is its quirk of machine types 4.0, which always show all of it.
pub fn size(features: Features, qemu_4_0_size: bool) -> usize {
    if features.contains(Features::PAGE_POISON) || qemu_4_0_size {
        size_of::<Config>()
    } else if features.contains(Features::FREE_PAGE_HINT) {
        offset_of!(Config, poison_val)
    } else {
        offset_of!(Config, free_page_hint_cmd_id)
    }
}

/// The values behind the configuration space.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConfigState {
    /// How many bytes of its RAM the host asks the guest to keep; `None` for all of it, whatever
    /// comes and goes.
    pub target: Option<u64>,
    /// How many bytes of RAM the guest has.
    pub ram: u64,
    /// Pages that the host asks for: what `target` leaves of `ram`.
    pub num_pages: u32,
    /// Pages that the guest says are in the balloon; any number that a guest can write.
    pub actual: u32,
    /// What the guest fills free pages with; 0 unless PAGE_POISON was negotiated.
    pub poison_val: u32,
}

impl ConfigState {
    /// Fills `image` with the start of the configuration space, with `hint_id` as the command of the
    /// hint queue; bytes past its end become 0.
    pub fn read(&self, hint_id: u32, image: &mut [u8]) {
        let config = Config {
            num_pages: self.num_pages.into(),
            actual: self.actual.into(),
            free_page_hint_cmd_id: hint_id.into(),
            poison_val: self.poison_val.into(),
        };
        let bytes = config.as_bytes();
        let len = bytes.len().min(image.len());
        image[..len].copy_from_slice(&bytes[..len]);
        image[len..].fill(0);
    }

    /// Takes over what a driver may write: `actual`, and `poison_val` where it was negotiated.
    /// The rest of `image` has no effect; fields that it does not reach keep their value. Says
    /// whether `actual` is another now.
    pub fn write(&mut self, image: &[u8], negotiated: Features) -> bool {
        let mut config = Config::default();
        self.read(HINT_STOP, config.as_mut_bytes());
        let len = image.len().min(size_of::<Config>());
        config.as_mut_bytes()[..len].copy_from_slice(&image[..len]);
        let before = self.actual;
        self.actual = config.actual.get();
        if negotiated.contains(Features::PAGE_POISON) {
            self.poison_val = config.poison_val.get();
        }
        self.actual != before
    }

    /// Has a guest with `ram` bytes keep `target` of them.
    ///
    /// A target that is all of RAM, or more, empties the balloon, and leaves memory that comes
    /// later to the guest, too: management software sets such a target when it starts a machine.
    pub fn set_target(&mut self, target: u64, ram: u64) {
        self.target = (target < ram).then_some(target);
        self.set_ram(ram);
    }

    /// The guest has `ram` bytes from now on: the target stays. Says whether the host asks for
    /// another number of pages now. A balloon holds at most 2^32 - 1 pages: the field has 32 bits.
    pub fn set_ram(&mut self, ram: u64) -> bool {
        let target = self.target.unwrap_or(u64::MAX);
        let pages = ram.saturating_sub(target) / PAGE_SIZE;
        let before = self.num_pages;
        self.ram = ram;
        self.num_pages = u32::try_from(pages).unwrap_or(u32::MAX);
        self.num_pages != before
    }

    /// The target that `num_pages` of `ram` bytes stand for, as far as they say.
    pub fn target_of(num_pages: u32, ram: u64) -> Option<u64> {
        let bytes = u64::from(num_pages) * PAGE_SIZE;
        (num_pages > 0).then(|| ram.saturating_sub(bytes))
    }

    /// How many of its `ram` bytes the guest says are in the balloon, never more than all.
    pub fn actual_bytes(&self, ram: u64) -> u64 {
        (u64::from(self.actual) * PAGE_SIZE).min(ram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_stock() {
        let base = Features::STATS_VQ;
        assert_eq!(size(base, false), 8);
        assert_eq!(size(base, true), 16);
        assert_eq!(size(base | Features::FREE_PAGE_HINT, false), 12);
        assert_eq!(size(base | Features::PAGE_POISON, false), 16);
    }

    #[test]
    fn a_driver_writes_only_its_own_fields() {
        let mut config = ConfigState {
            num_pages: 7,
            ..ConfigState::default()
        };
        let image = [0xff; 16];
        assert!(config.write(&image, Features::empty()));
        assert_eq!(
            (config.num_pages, config.actual, config.poison_val),
            (7, u32::MAX, 0)
        );
        assert!(!config.write(&image, Features::PAGE_POISON));
        assert_eq!(config.poison_val, u32::MAX);
        let mut back = [0x55; 20];
        config.read(0x0403_0201, &mut back);
        assert_eq!(back[..8], [7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(back[8..], [1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    }

    #[test]
    fn a_short_image_leaves_the_rest() {
        let mut config = ConfigState {
            poison_val: 9,
            ..ConfigState::default()
        };
        config.write(&[0, 0, 0, 0, 3, 0, 0, 0], Features::PAGE_POISON);
        assert_eq!((config.actual, config.poison_val), (3, 9));
    }

    #[test]
    fn targets_are_clamped() {
        let mut config = ConfigState::default();
        config.set_target(3 << 30, 4 << 30);
        assert_eq!(config.num_pages, 1 << 18);
        config.set_target(5 << 30, 4 << 30);
        assert_eq!(config.num_pages, 0);
        config.set_target(1 << 20, 17 << 40);
        assert_eq!(config.num_pages, u32::MAX, "more than 16 TiB must not wrap");
        config.actual = u32::MAX;
        assert_eq!(config.actual_bytes(4 << 30), 4 << 30);
        assert_eq!(config.actual_bytes(17 << 40), (16 << 40) - 4096);
    }

    const MIB: u64 = 1 << 20;

    fn asked_for(config: &ConfigState) -> u64 {
        u64::from(config.num_pages) * PAGE_SIZE
    }

    #[test]
    fn a_target_stays_while_memory_comes_and_goes() {
        let mut config = ConfigState::default();
        config.set_target(192 * MIB, 256 * MIB);
        assert_eq!(asked_for(&config), 64 * MIB);
        assert!(config.set_ram(128 * MIB));
        assert_eq!((asked_for(&config), config.target), (0, Some(192 * MIB)));
        assert!(!config.set_ram(192 * MIB));
        assert!(config.set_ram(512 * MIB));
        assert_eq!(asked_for(&config), 320 * MIB);
        assert!(!config.set_ram(512 * MIB));
        assert!(config.set_ram(17 << 40));
        assert_eq!(config.num_pages, u32::MAX);
        assert!(config.set_ram(256 * MIB));
        assert_eq!(asked_for(&config), 64 * MIB);
    }

    #[test]
    fn a_target_of_all_memory_is_one_of_all_that_comes() {
        let mut config = ConfigState::default();
        for target in [128 * MIB, 129 * MIB, u64::MAX] {
            config.set_target(127 * MIB, 128 * MIB);
            config.set_target(target, 128 * MIB);
            assert_eq!((config.target, config.num_pages), (None, 0));
            assert!(!config.set_ram(256 * MIB));
        }
    }

    /// What a stream says that has nothing but the number of pages.
    #[test]
    fn pages_stand_for_a_target() {
        assert_eq!(ConfigState::target_of(0, 128 * MIB), None);
        assert_eq!(
            ConfigState::target_of(1, 128 * MIB),
            Some(128 * MIB - PAGE_SIZE)
        );
        assert_eq!(ConfigState::target_of(u32::MAX, 128 * MIB), Some(0));
    }
}
