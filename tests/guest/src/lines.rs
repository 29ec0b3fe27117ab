// SPDX-License-Identifier: GPL-2.0-or-later
//! A socket to QEMU that speaks in lines, with a time limit on every read.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// One end of a socket, and what came in after the last whole line.
#[derive(Debug)]
pub struct Lines {
    name: &'static str,
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Lines {
    /// Takes over a connected socket; `name` is used in errors.
    pub fn new(name: &'static str, stream: UnixStream) -> Lines {
        Lines {
            name,
            stream,
            pending: Vec::new(),
        }
    }

    /// Sends `line` and a line break.
    ///
    /// # Errors
    /// When the socket is closed.
    pub fn send(&mut self, line: &str) -> Result<()> {
        let bytes = format!("{line}\n");
        self.stream
            .write_all(bytes.as_bytes())
            .map_err(Error::io(format!("write to {}", self.name)))
    }

    /// The next line without its line break, or `None` at `deadline`.
    ///
    /// # Errors
    /// When the socket is closed.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.pending.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim().to_string()));
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Reads once; false when the deadline is reached first.
    fn fill(&mut self, deadline: Instant) -> Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would mean "no limit" to the system.
        let limit = left.max(Duration::from_millis(1));
        let what = || format!("read from {}", self.name);
        self.stream
            .set_read_timeout(Some(limit))
            .map_err(Error::io(what()))?;
        let mut buffer = [0u8; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Error::Protocol(format!("QEMU closed the {}", self.name))),
            Ok(n) => {
                self.pending.extend_from_slice(&buffer[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(!left.is_zero())
            }
            Err(e) => Err(Error::io(what())(e)),
        }
    }
}
