// SPDX-License-Identifier: GPL-2.0-or-later

//! The few things that are asked of git about the QEMU sources.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;
use crate::run::{output, succeeds};

/// Settings that the user's own must not change: hooks, signing, line ends, hints; and the
/// length of the names of objects in patches, which would grow with the repository.
const SETTINGS: &[(&str, &str)] = &[
    ("core.abbrev", "12"),
    ("core.autocrlf", "false"),
    ("core.hooksPath", "/dev/null"),
    ("commit.gpgSign", "false"),
    ("am.threeWay", "false"),
    ("advice.mergeConflict", "false"),
    ("gc.auto", "0"),
];
/// Who commits what this program commits; patches keep their own authors.
const COMMITTER: (&str, &str) = ("xtask", "xtask@localhost");

/// A git repository with a work tree.
pub(crate) struct Git {
    dir: PathBuf,
}

impl Git {
    /// The repository in this directory, there or not.
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
        }
    }

    /// The work tree.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in git's own directory.
    pub(crate) fn own(&self, name: &str) -> PathBuf {
        self.dir.join(".git").join(name)
    }

    /// A git command in this repository.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.dir).args(args);
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        let (name, email) = COMMITTER;
        for who in ["COMMITTER", "AUTHOR"] {
            command.env(format!("GIT_{who}_NAME"), name);
            command.env(format!("GIT_{who}_EMAIL"), email);
        }
        command.env("GIT_CONFIG_COUNT", SETTINGS.len().to_string());
        for (index, (key, value)) in SETTINGS.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        command
    }

    /// The output of a git command, without the space around it.
    pub(crate) fn read(&self, args: &[&str]) -> Result<String> {
        Ok(output(&mut self.command(args))?.trim().to_owned())
    }

    /// Runs a git command for what it does.
    pub(crate) fn run(&self, args: &[&str]) -> Result<()> {
        output(&mut self.command(args)).map(drop)
    }

    /// The object that a name stands for, or nothing.
    pub(crate) fn find(&self, name: &str) -> Option<String> {
        self.read(&["rev-parse", "--verify", "--quiet", name]).ok()
    }

    /// Whether no tracked file differs from the last commit.
    pub(crate) fn is_clean(&self) -> bool {
        succeeds(&mut self.command(&["diff", "--quiet", "HEAD", "--"]))
    }
}
