// SPDX-License-Identifier: GPL-2.0-or-later
//! Which memory is the guest's to give, and how it is given back.
//!
//! All of that is decided here, from facts that the host's side states. What is not known to be
//! guest RAM is not: the list of what else can be mapped where a guest sees it only grows.

/// What a piece of memory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Owner {
    /// A device, firmware, or anything that is not known: BARs, ROM, persistent memory.
    Other = 0,
    /// The machine: its RAM.
    Machine = 1,
    /// A DIMM with RAM.
    Dimm = 2,
    /// A virtio-mem device: parts of it come and go.
    VirtioMem = 3,
}

/// The file behind a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum BackingFile {
    /// None: the memory is anonymous.
    None = 0,
    /// One without a name and without content: nobody else can put any there.
    Empty = 1,
    /// Any other.
    Some = 2,
}

/// All that is known of a piece of memory and matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it belongs to.
    pub owner: Owner,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// It keeps its content when the machine is switched off.
    pub nonvolatile: bool,
    /// It is mapped so that others see what the guest writes.
    pub shared: bool,
    /// The file behind it.
    pub file: BackingFile,
    /// It has a second, private half (KVM's guest_memfd), which the mapping does not show.
    pub guest_memfd: bool,
    /// It is locked into the host's memory.
    pub locked: bool,
    /// The size of its backing pages in bytes.
    pub page_size: u64,
    /// The size of the host's smallest pages in bytes.
    pub host_page_size: u64,
}

/// How memory goes back to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The mapping drops its pages. A file behind it is not touched: with a private mapping it may
    /// be what other machines run on.
    Drop,
    /// The file, or what stands for one where memory is shared, gets a hole.
    Hole,
    /// Not at all.
    Never,
}

/// How a piece of guest RAM is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    /// How it is given back.
    pub way: Way,
    /// Whether the guest reads zeros there afterwards, not a file's content.
    pub reads_zeros: bool,
    /// Whether the host gains from being told that a part of it will be used again.
    pub populate: bool,
    /// Whether the host can take its pages back when it needs them, instead of at once.
    pub lazy: bool,
    /// Whether its pages are larger than those of the host.
    pub large: bool,
    /// Whether only parts of it are there, which are told one by one.
    pub in_parts: bool,
}

impl Default for Backing {
    fn default() -> Backing {
        Backing {
            way: Way::Hole,
            reads_zeros: true,
            populate: false,
            lazy: false,
            large: false,
            in_parts: false,
        }
    }
}

impl Facts {
    /// How the memory is dealt with; `None` when it is not the guest's to give.
    pub fn backing(&self) -> Option<Backing> {
        let is_ram = self.owner != Owner::Other && !self.read_only && !self.nonvolatile;
        is_ram.then(|| {
            let anonymous = self.file == BackingFile::None && !self.shared;
            let large = self.page_size > self.host_page_size;
            Backing {
                way: self.way(),
                // A page that a private mapping drops comes back from the file.
                reads_zeros: self.shared || self.file != BackingFile::Some,
                // Large pages are never read ahead; anonymous memory has no file to read.
                populate: self.file != BackingFile::None && !large,
                // The kernel does it for nothing else, and not for memory that is locked.
                lazy: anonymous && !large && !self.locked && !self.guest_memfd,
                large,
                in_parts: self.owner == Owner::VirtioMem,
            }
        })
    }

    fn way(&self) -> Way {
        // To drop the half that is mapped would free memory that the guest does not use, and leave
        // what it does use where it is.
        if self.guest_memfd {
            Way::Never
        } else if self.shared {
            Way::Hole
        } else {
            Way::Drop
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANONYMOUS: Facts = Facts {
        owner: Owner::Machine,
        read_only: false,
        nonvolatile: false,
        shared: false,
        file: BackingFile::None,
        guest_memfd: false,
        locked: false,
        page_size: 4096,
        host_page_size: 4096,
    };

    #[test]
    fn only_ram_is_the_guests_to_give() {
        for owner in [Owner::Machine, Owner::Dimm, Owner::VirtioMem] {
            let facts = Facts { owner, ..ANONYMOUS };
            assert!(facts.backing().is_some(), "{owner:?}");
            let read_only = Facts {
                read_only: true,
                ..facts
            };
            assert_eq!(read_only.backing(), None);
            let nonvolatile = Facts {
                nonvolatile: true,
                ..facts
            };
            assert_eq!(nonvolatile.backing(), None);
        }
        let other = Facts {
            owner: Owner::Other,
            ..ANONYMOUS
        };
        assert_eq!(other.backing(), None);
    }

    #[test]
    fn a_private_mapping_never_punches_its_file() {
        for file in [BackingFile::None, BackingFile::Empty, BackingFile::Some] {
            for page_size in [4096, 2 << 20] {
                let facts = Facts {
                    file,
                    page_size,
                    ..ANONYMOUS
                };
                let backing = facts.backing().unwrap();
                assert_eq!(backing.way, Way::Drop);
                assert_eq!(backing.reads_zeros, file != BackingFile::Some);
                assert_eq!(backing.large, page_size > 4096);
                let shared = Facts {
                    shared: true,
                    ..facts
                };
                let backing = shared.backing().unwrap();
                assert_eq!((backing.way, backing.reads_zeros), (Way::Hole, true));
                assert!(!backing.lazy);
            }
        }
    }

    #[test]
    fn only_plain_memory_can_wait_for_the_host() {
        assert!(ANONYMOUS.backing().unwrap().lazy);
        let others = [
            Facts {
                locked: true,
                ..ANONYMOUS
            },
            Facts {
                file: BackingFile::Empty,
                ..ANONYMOUS
            },
            Facts {
                page_size: 2 << 20,
                ..ANONYMOUS
            },
            Facts {
                guest_memfd: true,
                ..ANONYMOUS
            },
        ];
        for facts in others {
            assert!(!facts.backing().unwrap().lazy, "{facts:?}");
        }
    }

    #[test]
    fn memory_with_a_private_half_stays() {
        for shared in [false, true] {
            let facts = Facts {
                guest_memfd: true,
                shared,
                ..ANONYMOUS
            };
            assert_eq!(facts.backing().unwrap().way, Way::Never);
        }
    }
}
