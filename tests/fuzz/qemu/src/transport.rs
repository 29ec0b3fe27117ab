// SPDX-License-Identifier: GPL-2.0-or-later
//! The registers of a virtio device: PCI and MMIO, modern and legacy (virtio 1.3, 4.1 and 4.2).

use fuzz::random::Random;

use crate::session::{Checked, Session};

/// The balloon's slot on the PCI bus.
pub(crate) const SLOT: u32 = 4;
const IO_BAR: u64 = 0xc000;
const MEMORY_BAR: u64 = 0xe000_0000;
/// Where microvm has its transports, and how many bytes each takes.
const MMIO: u64 = 0xfeb0_0000;
const MMIO_STEP: u64 = 0x200;
const MMIO_COUNT: u64 = 24;
const BALLOON: u64 = 5;
/// The alignment of a legacy queue, and the unit of its address.
const LEGACY_PAGE: u64 = 0x1000;
/// Bytes of registers that random writes go to.
const REGISTERS: u64 = 0x100;

/// How the device is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Modern,
    Legacy,
    Mmio,
    LegacyMmio,
}

impl Kind {
    /// Whether the machine has a PCI bus, and can be given memory and devices.
    pub(crate) fn is_pci(self) -> bool {
        matches!(self, Kind::Modern | Kind::Legacy)
    }

    /// Whether the device has legacy registers only.
    pub(crate) fn is_legacy(self) -> bool {
        matches!(self, Kind::Legacy | Kind::LegacyMmio)
    }
}

/// Where its registers are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Modern {
        common: u64,
        notify: u64,
        step: u64,
        device: u64,
    },
    Legacy,
    Mmio(u64),
    LegacyMmio(u64),
}

/// Where a queue lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) index: u64,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
}

impl Transport {
    /// Finds the device; none when there is none, as after its unplug.
    pub(crate) fn find(session: &mut Session, kind: Kind) -> Checked<Option<Transport>> {
        match kind {
            Kind::Mmio => Ok(mmio(session)?.map(Transport::Mmio)),
            Kind::LegacyMmio => Ok(mmio(session)?.map(Transport::LegacyMmio)),
            Kind::Legacy => {
                pci_write(session, 0x10, IO_BAR as u32)?;
                pci_write(session, 0x04, 7)?;
                let vendor = pci_read(session, 0)?;
                Ok((vendor != u32::MAX).then_some(Transport::Legacy))
            }
            Kind::Modern => modern(session),
        }
    }

    pub(crate) fn reset(self, session: &mut Session) -> Checked<()> {
        self.set_status(session, 0)
    }

    pub(crate) fn set_status(self, session: &mut Session, status: u64) -> Checked<()> {
        match self {
            Transport::Modern { common, .. } => write(session, 'b', common + 0x14, status),
            Transport::Legacy => io(session, 'b', 0x12, status),
            Transport::Mmio(at) | Transport::LegacyMmio(at) => {
                write(session, 'l', at + 0x70, status)
            }
        }
    }

    pub(crate) fn status(self, session: &mut Session) -> Checked<u64> {
        session.number(&match self {
            Transport::Modern { common, .. } => format!("readb {:#x}", common + 0x14),
            Transport::Legacy => format!("inb {:#x}", IO_BAR + 0x12),
            Transport::Mmio(at) | Transport::LegacyMmio(at) => format!("readl {:#x}", at + 0x70),
        })
    }

    pub(crate) fn offered(self, session: &mut Session) -> Checked<u64> {
        let mut offered = 0;
        for half in [0, 1] {
            let bits = match self {
                Transport::Legacy if half == 1 => 0,
                Transport::Legacy => session.number(&format!("inl {IO_BAR:#x}"))?,
                Transport::Modern { common, .. } => {
                    write(session, 'l', common, half)?;
                    session.number(&format!("readl {:#x}", common + 4))?
                }
                Transport::LegacyMmio(_) if half == 1 => 0,
                Transport::Mmio(at) | Transport::LegacyMmio(at) => {
                    write(session, 'l', at + 0x14, half)?;
                    session.number(&format!("readl {:#x}", at + 0x10))?
                }
            };
            offered |= (bits & 0xffff_ffff) << (32 * half);
        }
        Ok(offered)
    }

    pub(crate) fn accept(self, session: &mut Session, features: u64) -> Checked<()> {
        for half in [0, 1] {
            let bits = features >> (32 * half) & 0xffff_ffff;
            match self {
                Transport::Legacy | Transport::LegacyMmio(_) if half == 1 => {}
                Transport::Legacy => io(session, 'l', 4, bits)?,
                Transport::Modern { common, .. } => {
                    write(session, 'l', common + 8, half)?;
                    write(session, 'l', common + 0xc, bits)?;
                }
                Transport::Mmio(at) | Transport::LegacyMmio(at) => {
                    write(session, 'l', at + 0x24, half)?;
                    write(session, 'l', at + 0x20, bits)?;
                }
            }
        }
        Ok(())
    }

    /// The most entries that a queue may have; 0 where there is no such queue. A legacy one has as
    /// many.
    pub(crate) fn queue_size(self, session: &mut Session, index: u64) -> Checked<u16> {
        let size = match self {
            Transport::Modern { common, .. } => {
                write(session, 'w', common + 0x16, index)?;
                session.number(&format!("readw {:#x}", common + 0x18))?
            }
            Transport::Legacy => {
                io(session, 'w', 0xe, index)?;
                session.number(&format!("inw {:#x}", IO_BAR + 0xc))?
            }
            Transport::Mmio(at) | Transport::LegacyMmio(at) => {
                write(session, 'l', at + 0x30, index)?;
                session.number(&format!("readl {:#x}", at + 0x34))?
            }
        };
        Ok(size.min(1024) as u16)
    }

    pub(crate) fn start_queue(
        self,
        session: &mut Session,
        index: u64,
        place: &Place,
    ) -> Checked<()> {
        let places = [place.descriptors, place.driver, place.device];
        match self {
            Transport::Modern { common, .. } => {
                write(session, 'w', common + 0x16, index)?;
                write(session, 'w', common + 0x18, place.size.into())?;
                for (at, address) in [0x20, 0x28, 0x30].into_iter().zip(places) {
                    write(session, 'l', common + at, address & 0xffff_ffff)?;
                    write(session, 'l', common + at + 4, address >> 32)?;
                }
                write(session, 'w', common + 0x1c, 1)
            }
            Transport::Legacy => {
                io(session, 'w', 0xe, index)?;
                io(session, 'l', 8, place.descriptors / LEGACY_PAGE)
            }
            Transport::Mmio(base) => {
                write(session, 'l', base + 0x30, index)?;
                write(session, 'l', base + 0x38, place.size.into())?;
                for (at, address) in [0x80, 0x90, 0xa0].into_iter().zip(places) {
                    write(session, 'l', base + at, address & 0xffff_ffff)?;
                    write(session, 'l', base + at + 4, address >> 32)?;
                }
                write(session, 'l', base + 0x44, 1)
            }
            Transport::LegacyMmio(base) => {
                write(session, 'l', base + 0x28, LEGACY_PAGE)?;
                write(session, 'l', base + 0x30, index)?;
                write(session, 'l', base + 0x38, place.size.into())?;
                write(session, 'l', base + 0x3c, LEGACY_PAGE)?;
                write(session, 'l', base + 0x40, place.descriptors / LEGACY_PAGE)
            }
        }
    }

    pub(crate) fn notify(self, session: &mut Session, index: u64) -> Checked<()> {
        match self {
            Transport::Modern { notify, step, .. } => {
                write(session, 'w', notify + step * index, index)
            }
            Transport::Legacy => io(session, 'w', 0x10, index),
            Transport::Mmio(at) | Transport::LegacyMmio(at) => {
                write(session, 'l', at + 0x50, index)
            }
        }
    }

    pub(crate) fn reset_queue(self, session: &mut Session, index: u64) -> Checked<()> {
        match self {
            Transport::Modern { common, .. } => {
                write(session, 'w', common + 0x16, index)?;
                write(session, 'w', common + 0x3a, 1)
            }
            Transport::Legacy => {
                io(session, 'w', 0xe, index)?;
                io(session, 'l', 8, 0)
            }
            Transport::Mmio(at) => {
                write(session, 'l', at + 0x30, index)?;
                write(session, 'l', at + 0x44, 0)
            }
            Transport::LegacyMmio(at) => {
                write(session, 'l', at + 0x30, index)?;
                write(session, 'l', at + 0x40, 0)
            }
        }
    }

    pub(crate) fn configure(self, session: &mut Session, at: u64, value: u64) -> Checked<()> {
        match self {
            Transport::Modern { device, .. } => write(session, 'l', device + at, value),
            Transport::Legacy => io(session, 'l', 0x14 + at, value),
            Transport::Mmio(base) | Transport::LegacyMmio(base) => {
                write(session, 'l', base + 0x100 + at, value)
            }
        }
    }

    /// The command of hints that the device shows.
    pub(crate) fn hint_command(self, session: &mut Session) -> Checked<u32> {
        let at = 8;
        let command = session.number(&match self {
            Transport::Modern { device, .. } => format!("readl {:#x}", device + at),
            Transport::Legacy => format!("inl {:#x}", IO_BAR + 0x14 + at),
            Transport::Mmio(base) | Transport::LegacyMmio(base) => {
                format!("readl {:#x}", base + 0x100 + at)
            }
        })?;
        Ok(command as u32)
    }

    /// Writes anything to any register, or reads it.
    pub(crate) fn poke(self, session: &mut Session, random: &mut Random) -> Checked<()> {
        let width = ['b', 'w', 'l'][random.below(3)];
        let value = random.number() >> random.below(64) & 0xffff_ffff;
        let at = random.number() % REGISTERS;
        let base = match self {
            Transport::Modern { common, device, .. } => [common, common, device][random.below(3)],
            Transport::Mmio(base) | Transport::LegacyMmio(base) => base,
            Transport::Legacy if random.one_in(4) => {
                return session
                    .qtest(&format!("in{width} {:#x}", IO_BAR + at))
                    .map(drop);
            }
            Transport::Legacy => return io(session, width, at % 0x40, value),
        };
        match random.one_in(4) {
            true => session
                .qtest(&format!("read{width} {:#x}", base + at))
                .map(drop),
            false => write(session, width, base + at, value),
        }
    }
}

fn mmio(session: &mut Session) -> Checked<Option<u64>> {
    for at in (0..MMIO_COUNT).map(|n| MMIO + n * MMIO_STEP) {
        if session.number(&format!("readl {:#x}", at + 8))? == BALLOON {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn modern(session: &mut Session) -> Checked<Option<Transport>> {
    if pci_read(session, 0)? == u32::MAX {
        return Ok(None);
    }
    let (mut common, mut notify, mut device, mut step) = (None, None, None, 0);
    let mut bar = 0;
    let mut at = pci_read(session, 0x34)? & 0xfc;
    for _ in 0..16 {
        if at == 0 {
            break;
        }
        let head = pci_read(session, at)?;
        if head & 0xff == 9 {
            let offset = u64::from(pci_read(session, at + 8)?);
            let here = pci_read(session, at + 4)? & 0xff;
            match head >> 24 {
                1 => (common, bar) = (Some(MEMORY_BAR + offset), here),
                2 => {
                    notify = Some(MEMORY_BAR + offset);
                    step = u64::from(pci_read(session, at + 16)?);
                }
                4 => device = Some(MEMORY_BAR + offset),
                _ => {}
            }
        }
        at = head >> 8 & 0xfc;
    }
    let (Some(common), Some(notify), Some(device)) = (common, notify, device) else {
        return Ok(None);
    };
    pci_write(session, 0x10 + 4 * bar, MEMORY_BAR as u32)?;
    pci_write(session, 0x14 + 4 * bar, 0)?;
    pci_write(session, 0x04, 6)?;
    Ok(Some(Transport::Modern {
        common,
        notify,
        step,
        device,
    }))
}

fn pci_select(session: &mut Session, at: u32) -> Checked<()> {
    let address = 1 << 31 | SLOT << 11 | at;
    session.qtest(&format!("outl 0xcf8 {address:#x}")).map(drop)
}

fn pci_read(session: &mut Session, at: u32) -> Checked<u32> {
    pci_select(session, at)?;
    Ok(session.number("inl 0xcfc")? as u32)
}

fn pci_write(session: &mut Session, at: u32, value: u32) -> Checked<()> {
    pci_select(session, at)?;
    session.qtest(&format!("outl 0xcfc {value:#x}")).map(drop)
}

fn write(session: &mut Session, width: char, at: u64, value: u64) -> Checked<()> {
    session
        .qtest(&format!("write{width} {at:#x} {value:#x}"))
        .map(drop)
}

fn io(session: &mut Session, width: char, at: u64, value: u64) -> Checked<()> {
    let at = IO_BAR + at;
    session
        .qtest(&format!("out{width} {at:#x} {value:#x}"))
        .map(drop)
}
