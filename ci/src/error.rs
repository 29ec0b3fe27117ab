// SPDX-License-Identifier: GPL-2.0-or-later

//! The one error of this program: what happened, and what to do about it.

use std::path::Path;

/// A failure that ends the command with one line.
#[derive(Debug, thiserror::Error)]
#[error("{what}; {todo}")]
pub(crate) struct Error {
    what: String,
    todo: String,
}

/// What everything here returns.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error from what happened and what the reader can do.
    pub(crate) fn new(what: impl Into<String>, todo: impl Into<String>) -> Self {
        let what = what.into().trim().replace('\n', " ");
        let todo = todo.into().trim().replace('\n', " ");
        Self { what, todo }
    }
}

/// Turns an I/O error into one line that names the file.
pub(crate) trait At<T> {
    /// `doing` is a verb phrase, such as "read" or "create".
    fn at(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|error| {
            let todo = match error.kind() {
                std::io::ErrorKind::StorageFull => "free some space and run this again",
                std::io::ErrorKind::PermissionDenied => "check who owns it and run this again",
                _ => "check that path and run this again",
            };
            Error::new(format!("cannot {doing} {}: {error}", path.display()), todo)
        })
    }
}
