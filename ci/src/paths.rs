// SPDX-License-Identifier: GPL-2.0-or-later

//! Where things are: everything that is made lies under `target/`.

use std::path::{Path, PathBuf};

/// The top of the project and the places below it.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    top: PathBuf,
}

impl Paths {
    /// The project this program was built in.
    pub(crate) fn new() -> Self {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let top = crate_dir.parent().unwrap_or(crate_dir).to_path_buf();
        Self { top }
    }

    /// The top of the source tree.
    pub(crate) fn top(&self) -> &Path {
        &self.top
    }

    /// Everything that is made; never tracked.
    pub(crate) fn target(&self) -> PathBuf {
        self.top.join("target")
    }

    /// What came over the network.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.target().join("downloads")
    }

    /// Programs that the steps need and that are not system packages.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// One log for each step.
    pub(crate) fn log(&self, step: &str) -> PathBuf {
        self.target().join("log").join(format!("{step}.log"))
    }

    /// Guest kernel, initramfs and modules.
    pub(crate) fn guest(&self) -> PathBuf {
        self.target().join("guest")
    }

    /// All patch series.
    pub(crate) fn patches(&self) -> PathBuf {
        self.top.join("qemu-patches")
    }

    /// Our new files on QEMU's side.
    pub(crate) fn glue(&self) -> PathBuf {
        self.top.join("meson-glue")
    }

    /// The sources and the builds of one series.
    pub(crate) fn series(&self, series: &str) -> PathBuf {
        self.target().join("qemu").join(series)
    }

    /// The patched QEMU sources of one series, a git repository.
    pub(crate) fn qemu_src(&self, series: &str) -> PathBuf {
        self.series(series).join("src")
    }
}
