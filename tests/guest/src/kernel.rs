// SPDX-License-Identifier: GPL-2.0-or-later
//! An unpacked kernel package: where it has its kernel and its modules.
//!
//! Distributions differ, and so do the releases of one: modules lie in `lib` or `usr/lib`, are
//! compressed or not, and the drivers that a guest needs are modules or built in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{copy, create, path_text, run_to};
use crate::{Error, Result};

/// The folder of the kernel's modules that holds the drivers and all they need.
pub(crate) const DRIVERS: &str = "kernel/drivers/virtio";
/// What a guest cannot do without, as a module or built in.
const NEEDED: &[&str] = &["virtio_pci", "virtio_balloon"];
/// Lists that depmod looks into, and whether a package may lack them.
const LISTS: &[(&str, bool)] = &[("modules.builtin", false), ("modules.order", true)];
/// How modules are compressed, and the program and the package that undo it.
const COMPRESSED: &[(&str, &str, &str)] = &[
    ("xz", "xz", "xz-utils"),
    ("zst", "zstd", "zstd"),
    ("gz", "gzip", "gzip"),
];

/// A kernel that was unpacked below `root`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unpacked<'a> {
    /// Where its packages were unpacked.
    pub(crate) root: &'a Path,
    /// What `uname -r` says.
    pub(crate) release: &'a str,
}

impl Unpacked<'_> {
    /// The kernel itself.
    ///
    /// # Errors
    /// When it is in none of the known places.
    pub(crate) fn kernel(&self) -> Result<PathBuf> {
        let release = self.release;
        self.first([
            format!("boot/vmlinuz-{release}"),
            format!("usr/lib/modules/{release}/vmlinuz"),
            format!("lib/modules/{release}/vmlinuz"),
        ])
    }

    /// Puts the drivers and what depmod reads into `to`, where the guest has its modules;
    /// modules are decompressed, as the guest's modprobe need not know how.
    ///
    /// # Errors
    /// When a driver that a guest needs is neither a module nor built in, with its name; when
    /// a module is compressed in an unknown way.
    pub(crate) fn lay_out_modules(&self, to: &Path) -> Result<()> {
        let release = self.release;
        let modules = self.first([
            format!("lib/modules/{release}"),
            format!("usr/lib/modules/{release}"),
        ])?;
        create(to)?;
        for &(name, may_lack) in LISTS {
            let list = modules.join(name);
            if list.is_file() || !may_lack {
                copy(&list, &to.join(name))?;
            }
        }
        let drivers = to.join(DRIVERS);
        create(&drivers)?;
        if modules.join(DRIVERS).is_dir() {
            plain_modules(&modules.join(DRIVERS), &drivers)?;
        }
        self.check_needed(to)
    }

    /// Checks that each driver that a guest needs is there.
    fn check_needed(&self, modules: &Path) -> Result<()> {
        let list = modules.join("modules.builtin");
        let builtin = fs::read_to_string(&list).map_err(Error::io(path_text(&list)))?;
        let there = |name: &str| {
            let file = format!("{name}.ko");
            let is_it = |line: &str| line.rsplit('/').next() == Some(file.as_str());
            modules.join(DRIVERS).join(&file).is_file() || builtin.lines().any(is_it)
        };
        match NEEDED.iter().find(|name| !there(name)) {
            None => Ok(()),
            Some(name) => Err(Error::Missing(format!(
                "the packages of Linux {} have {name} neither as a module in {DRIVERS} nor \
                 in modules.builtin: this kernel cannot be a guest",
                self.release
            ))),
        }
    }

    /// The first of these that is there, below the root.
    fn first<const N: usize>(&self, places: [String; N]) -> Result<PathBuf> {
        let found = places.iter().map(|place| self.root.join(place));
        found.into_iter().find(|path| path.exists()).ok_or_else(|| {
            Error::Missing(format!(
                "the packages of Linux {} are laid out in a way that is not known here: \
                 there is no {}",
                self.release,
                places.join(" and no ")
            ))
        })
    }
}

/// Copies the modules of one folder and decompresses them.
fn plain_modules(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io(path_text(from)))? {
        let file = entry.map_err(Error::io(path_text(from)))?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match name.split_once(".ko") {
            Some((_, "")) => copy(&file, &to.join(&*name))?,
            Some((module, end)) => decompress(&file, end, &to.join(format!("{module}.ko")))?,
            None => {}
        }
    }
    Ok(())
}

/// Decompresses a module whose name ends in `.ko` and `end`.
fn decompress(file: &Path, end: &str, to: &Path) -> Result<()> {
    let known = COMPRESSED
        .iter()
        .find(|(suffix, ..)| end.strip_prefix('.') == Some(*suffix));
    let Some((_, program, package)) = known else {
        let text = format!(
            "{} is compressed in a way that is not known here",
            file.display()
        );
        return Err(Error::Missing(text));
    };
    let out = fs::File::create(to).map_err(Error::io(path_text(to)))?;
    let mut command = Command::new(program);
    command.arg("-dc").arg(file).stdout(out);
    let what = format!("decompress a module with the package {package}");
    run_to(&what, &mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: &str = "9.8.7+deb42-cloud-amd64";

    /// A made-up package tree of its own for each test.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Tree {
            let name = format!("vbr-kernel-{}-{name}", std::process::id());
            Tree(std::env::temp_dir().join(name))
        }

        fn with(self, file: &str, text: &str) -> Tree {
            let path = self.0.join("package").join(file.replace('@', RELEASE));
            create(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        /// With a file that `program` made of `text`.
        fn packed(self, program: &str, file: &str, text: &str) -> Tree {
            let tree = self.with("plain", text);
            let plain = tree.0.join("package/plain");
            let out = Command::new(program).arg("-c").arg(&plain).output();
            let bytes = out.expect(program).stdout;
            let path = tree.0.join("package").join(file.replace('@', RELEASE));
            create(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
            tree
        }

        fn unpacked(&self) -> (PathBuf, PathBuf) {
            (self.0.join("package"), self.0.join("guest"))
        }

        /// What the guest gets; each module with its content.
        fn laid_out(&self) -> Result<Vec<(String, String)>> {
            let (root, to) = self.unpacked();
            let release = RELEASE;
            Unpacked {
                root: &root,
                release,
            }
            .lay_out_modules(&to)?;
            let entries = fs::read_dir(to.join(DRIVERS)).unwrap();
            let mut all: Vec<_> = entries
                .map(|entry| {
                    let path = entry.unwrap().path();
                    let name = path.file_name().unwrap().to_string_lossy().into_owned();
                    (name, fs::read_to_string(path).unwrap())
                })
                .collect();
            all.sort();
            Ok(all)
        }

        fn kernel(&self) -> Result<PathBuf> {
            let (root, _) = self.unpacked();
            let release = RELEASE;
            let found = Unpacked {
                root: &root,
                release,
            };
            let kernel = found.kernel()?;
            Ok(kernel.strip_prefix(&root).unwrap().to_path_buf())
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn text(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |&(name, text): &(&str, &str)| (name.to_string(), text.to_string());
        pairs.iter().map(owned).collect()
    }

    /// Debian 12: all are modules, nothing is compressed, in lib.
    #[test]
    fn plain_modules_in_lib() {
        let tree = Tree::new("plain")
            .with("boot/vmlinuz-@", "kernel")
            .with("lib/modules/@/modules.builtin", "kernel/fs/proc.ko\n")
            .with("lib/modules/@/modules.order", "")
            .with("lib/modules/@/kernel/drivers/virtio/virtio_pci.ko", "pci")
            .with("lib/modules/@/kernel/drivers/virtio/virtio_balloon.ko", "b");
        assert_eq!(
            tree.kernel().unwrap(),
            Path::new(&format!("boot/vmlinuz-{RELEASE}"))
        );
        let modules = text(&[("virtio_balloon.ko", "b"), ("virtio_pci.ko", "pci")]);
        assert_eq!(tree.laid_out().unwrap(), modules);
        let lists = tree.unpacked().1;
        assert!(lists.join("modules.builtin").is_file() && lists.join("modules.order").is_file());
    }

    /// Debian 13: in usr/lib, compressed, the transport built in.
    #[test]
    fn compressed_modules_in_usr_lib_and_a_built_in_transport() {
        let builtin = "kernel/drivers/virtio/virtio_pci.ko\n";
        for (program, end) in [("xz", "xz"), ("zstd", "zst"), ("gzip", "gz")] {
            let module = format!("usr/lib/modules/@/kernel/drivers/virtio/virtio_balloon.ko.{end}");
            let tree = Tree::new(end)
                .with("usr/lib/modules/@/modules.builtin", builtin)
                .packed(program, &module, "the balloon");
            let modules = text(&[("virtio_balloon.ko", "the balloon")]);
            assert_eq!(tree.laid_out().unwrap(), modules, "{end}");
        }
    }

    /// Debian 14: three packages, unpacked over each other; the kernel is beside its modules.
    #[test]
    fn the_kernel_may_lie_beside_its_modules() {
        let tree = Tree::new("split").with("usr/lib/modules/@/vmlinuz", "kernel");
        let place = format!("usr/lib/modules/{RELEASE}/vmlinuz");
        assert_eq!(tree.kernel().unwrap(), Path::new(&place));
    }

    #[test]
    fn all_drivers_may_be_built_in() {
        let list = "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/virtio/virtio_balloon.ko\n";
        let tree = Tree::new("builtin").with("lib/modules/@/modules.builtin", list);
        assert!(tree.laid_out().unwrap().is_empty());
    }

    #[test]
    fn the_message_names_the_driver_that_is_missing() {
        let list = "kernel/drivers/virtio/virtio_pci.ko\nkernel/a/not_virtio_balloon.ko\n";
        let tree = Tree::new("missing").with("lib/modules/@/modules.builtin", list);
        let said = tree.laid_out().unwrap_err().to_string();
        assert!(
            said.contains("virtio_balloon") && said.contains(RELEASE),
            "{said}"
        );
    }

    #[test]
    fn the_message_names_the_places_that_were_looked_at() {
        let tree = Tree::new("nowhere").with("opt/linux/vmlinuz", "kernel");
        let said = tree.kernel().unwrap_err().to_string();
        assert!(
            said.contains("boot/vmlinuz-") && said.contains("usr/lib/modules"),
            "{said}"
        );
        let said = tree.laid_out().unwrap_err().to_string();
        assert!(said.contains("usr/lib/modules"), "{said}");
    }

    #[test]
    fn the_message_names_a_module_that_nobody_can_read() {
        let tree = Tree::new("lz9")
            .with("lib/modules/@/modules.builtin", "")
            .with("lib/modules/@/kernel/drivers/virtio/virtio_pci.ko.lz9", "?");
        let said = tree.laid_out().unwrap_err().to_string();
        assert!(said.contains("virtio_pci.ko.lz9"), "{said}");
    }
}
