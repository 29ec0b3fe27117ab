// SPDX-License-Identifier: GPL-2.0-or-later
//! A modern virtio device on the PCI bus: virtio 1.3, 4.1.

use guest::{Error, Result};

use crate::qtest::Qtest;

/// Where the device's registers are put: above any RAM that the machine has here.
const REGISTERS: u64 = 0xe000_0000;

const COMMAND: u32 = 0x04;
/// Memory is decoded, and the device may reach RAM.
const MEMORY_AND_MASTER: u32 = 0x6;
const FIRST_BAR: u32 = 0x10;
const CAPABILITIES: u32 = 0x34;
const VENDOR_SPECIFIC: u32 = 0x09;

const COMMON: u32 = 1;
const NOTIFY: u32 = 2;

/// The device's registers.
#[derive(Debug)]
pub struct Pci {
    common: u64,
    notify: u64,
    notify_step: u64,
}

/// A device's status bits; virtio 1.3, 2.1.
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

impl Pci {
    /// Finds the registers of the device in `slot` and maps them.
    ///
    /// # Errors
    /// When there is no modern virtio device.
    pub fn new(qtest: &mut Qtest, slot: u32) -> Result<Pci> {
        let mut config = Config { qtest, slot };
        let (mut common, mut notify) = (None, None);
        let mut at = config.read(CAPABILITIES)? & 0xfc;
        while at != 0 {
            let head = config.read(at)?;
            if head & 0xff == VENDOR_SPECIFIC {
                let bar = config.read(at + 4)? & 0xff;
                let place = (bar, u64::from(config.read(at + 8)?));
                match head >> 24 {
                    COMMON => common = Some(place),
                    NOTIFY => notify = Some((place, u64::from(config.read(at + 16)?))),
                    _ => {}
                }
            }
            at = (head >> 8) & 0xfc;
        }
        let (Some((bar, common)), Some(((notify_bar, notify), notify_step))) = (common, notify)
        else {
            return Err(odd("the device is no modern one"));
        };
        if bar != notify_bar {
            return Err(odd("its registers lie in two places"));
        }
        config.write(FIRST_BAR + 4 * bar, REGISTERS as u32)?;
        config.write(FIRST_BAR + 4 * bar + 4, 0)?;
        config.write(COMMAND, MEMORY_AND_MASTER)?;
        Ok(Pci {
            common: REGISTERS + common,
            notify: REGISTERS + notify,
            notify_step,
        })
    }

    /// Resets the device and accepts `features`.
    ///
    /// # Errors
    /// When the device does not offer or take them.
    pub fn negotiate(&self, qtest: &mut Qtest, features: u64) -> Result<()> {
        self.write(qtest, 'b', 0x14, 0)?;
        self.write(qtest, 'b', 0x14, u64::from(ACKNOWLEDGE | DRIVER))?;
        let mut offered = 0;
        for half in [0, 1] {
            self.write(qtest, 'l', 0x00, half)?;
            offered |= self.read(qtest, 'l', 0x04)? << (32 * half);
            self.write(qtest, 'l', 0x08, half)?;
            self.write(qtest, 'l', 0x0c, (features >> (32 * half)) & 0xffff_ffff)?;
        }
        if offered & features != features {
            return Err(odd(&format!("it offers {offered:#x}, not {features:#x}")));
        }
        let status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
        self.write(qtest, 'b', 0x14, u64::from(status))?;
        if self.read(qtest, 'b', 0x14)? & u64::from(FEATURES_OK) == 0 {
            return Err(odd("it does not take the features"));
        }
        Ok(())
    }

    /// Tells the device where a queue lies and starts the queue; gives the address by which the
    /// device is notified.
    ///
    /// # Errors
    /// When there is no such queue or it is too short.
    pub fn start_queue(&self, qtest: &mut Qtest, index: u16, place: &Place) -> Result<u64> {
        self.write(qtest, 'w', 0x16, index.into())?;
        let most = self.read(qtest, 'w', 0x18)?;
        if most < place.size.into() {
            return Err(odd(&format!("its queue {index} has {most} descriptors")));
        }
        self.write(qtest, 'w', 0x18, place.size.into())?;
        for (at, address) in [
            (0x20, place.descriptors),
            (0x28, place.available),
            (0x30, place.used),
        ] {
            self.write(qtest, 'l', at, address & 0xffff_ffff)?;
            self.write(qtest, 'l', at + 4, address >> 32)?;
        }
        let offset = self.read(qtest, 'w', 0x1e)?;
        self.write(qtest, 'w', 0x1c, 1)?;
        Ok(self.notify + offset * self.notify_step)
    }

    /// The driver is ready.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn start(&self, qtest: &mut Qtest) -> Result<()> {
        let status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        self.write(qtest, 'b', 0x14, status.into())
    }

    fn write(&self, qtest: &mut Qtest, width: char, at: u64, value: u64) -> Result<()> {
        let address = self.common + at;
        qtest
            .call(&format!("write{width} {address:#x} {value:#x}"))
            .map(drop)
    }

    fn read(&self, qtest: &mut Qtest, width: char, at: u64) -> Result<u64> {
        qtest.number(&format!("read{width} {:#x}", self.common + at))
    }
}

/// Where the parts of a queue lie in guest memory.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// How many descriptors it has.
    pub size: u16,
    /// Address of the descriptors.
    pub descriptors: u64,
    /// Address of the ring of the driver.
    pub available: u64,
    /// Address of the ring of the device.
    pub used: u64,
}

struct Config<'a> {
    qtest: &'a mut Qtest,
    slot: u32,
}

impl Config<'_> {
    fn select(&mut self, at: u32) -> Result<()> {
        let address = (1 << 31) | (self.slot << 11) | at;
        self.qtest.call(&format!("outl 0xcf8 {address:#x}"))?;
        Ok(())
    }

    fn read(&mut self, at: u32) -> Result<u32> {
        self.select(at)?;
        Ok(self.qtest.number("inl 0xcfc")? as u32)
    }

    fn write(&mut self, at: u32, value: u32) -> Result<()> {
        self.select(at)?;
        self.qtest.call(&format!("outl 0xcfc {value:#x}")).map(drop)
    }
}

fn odd(what: &str) -> Error {
    Error::Protocol(format!("the balloon device: {what}"))
}
