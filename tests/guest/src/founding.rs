// SPDX-License-Identifier: GPL-2.0-or-later
//! Our own driver in a running guest: what it counts and what it is told to do.

use crate::driver::MODULE;
use crate::vm::Vm;
use crate::{Error, Result};

/// Where the guest's kernel has our driver.
pub const DRIVER: &str = "/sys/bus/virtio/drivers/vbr_founding";

impl Vm {
    /// Where our driver's parameters are in the guest.
    fn parameter_file(name: &str) -> String {
        format!("/sys/module/{MODULE}/parameters/{name}")
    }

    /// A parameter of our driver.
    ///
    /// # Errors
    /// When the guest does not use our driver, or it has no such parameter.
    pub fn driver_parameter(&mut self, name: &str) -> Result<String> {
        let file = Vm::parameter_file(name);
        let text = self.guest(|agent| agent.call(&format!("read {file}")))?;
        Ok(text.trim_end().into())
    }

    /// Changes a parameter of our driver.
    ///
    /// # Errors
    /// When there is none that can be changed, or the driver refuses the value.
    pub fn set_driver_parameter(&mut self, name: &str, value: &str) -> Result<()> {
        let file = Vm::parameter_file(name);
        self.guest(|agent| agent.call(&format!("write {file} {value}")))
            .map(drop)
    }

    /// Takes our driver from its device and returns the device's name in the guest.
    ///
    /// # Errors
    /// When it has none.
    pub fn unbind_driver(&mut self) -> Result<String> {
        let device = self.shell(&format!("cd {DRIVER}; echo virtio*"))?;
        self.guest(|agent| agent.call(&format!("write {DRIVER}/unbind {device}")))?;
        Ok(device)
    }

    /// Gives our driver the device of this name.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn bind_driver(&mut self, device: &str) -> Result<()> {
        self.guest(|agent| agent.call(&format!("write {DRIVER}/bind {device}")))
            .map(drop)
    }

    /// What our driver counts under this name, since it was loaded.
    ///
    /// # Errors
    /// When it counts no such thing.
    pub fn driver_count(&mut self, name: &str) -> Result<u64> {
        let table = self.driver_parameter("counts")?;
        count(&table, name)
            .ok_or_else(|| Error::Protocol(format!("the driver does not count {name}: {table}")))
    }
}

/// `NAME NUMBER` a line.
fn count(table: &str, name: &str) -> Option<u64> {
    let mut lines = table.lines().filter_map(|line| line.split_once(' '));
    let (_, number) = lines.find(|(key, _)| *key == name)?;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn a_count_is_found_by_its_whole_name() {
        let table = "moved-pages-most 1\nmoved-pages 7\n";
        assert_eq!(count(table, "moved-pages"), Some(7));
        assert_eq!(count(table, "pages"), None);
    }
}
