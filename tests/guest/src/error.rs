// SPDX-License-Identifier: GPL-2.0-or-later
//! What can go wrong, said so that a reader knows what to do.

use std::fmt;
use std::io;
use std::time::Duration;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(thiserror::Error)]
pub enum Error {
    /// A file or a socket.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program that was run ended with an error.
    #[error("{0}")]
    Tool(String),
    /// Something needed is not there; the text says what to do.
    #[error("{0}")]
    Missing(String),
    /// What a guest of another release takes, and neither this machine nor its archive has: a
    /// reason to go without that guest, where every other error is a fault.
    #[error("{0}")]
    Unavailable(String),
    /// Something did not happen in time.
    #[error("no {what} within {} s", after.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {reason}")]
    Qmp {
        /// The command's name.
        command: String,
        /// QEMU's words.
        reason: String,
    },
    /// The program in the guest could not do what it was asked.
    #[error("in the guest, {request}: {reason}")]
    Agent {
        /// The request.
        request: String,
        /// The guest's words.
        reason: String,
    },
    /// The other side closed a socket or said something that makes no sense.
    #[error("{0}")]
    Protocol(String),
    /// An error of a machine, with what the machine last said.
    #[error("{source}\n{said}")]
    Machine {
        /// What went wrong.
        source: Box<Error>,
        /// The end of the console and of QEMU's own output.
        said: String,
    },
}

/// The same text as `Display`: it is what a failed test prints.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// Makes an error of a system error and what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// Whether something did not happen in time.
    pub fn is_timeout(&self) -> bool {
        match self {
            Error::Timeout { .. } => true,
            Error::Machine { source, .. } => source.is_timeout(),
            _ => false,
        }
    }

    /// QEMU's words, where QEMU refused a command.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Error::Qmp { reason, .. } => Some(reason),
            Error::Machine { source, .. } => source.refusal(),
            _ => None,
        }
    }
}
