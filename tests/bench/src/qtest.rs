// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU's test protocol: the bus of a machine without a processor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use guest::{Error, Result};

/// Filling memory takes a while.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// A connection to QEMU's test server.
#[derive(Debug)]
pub struct Qtest {
    stream: BufReader<UnixStream>,
    /// Commands whose answer nobody has fetched. QEMU's main loop would wait for ever for somebody to
    /// read them if they became too many.
    unanswered: u32,
}

impl Qtest {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// When it is no socket any more.
    pub fn new(stream: UnixStream) -> Result<Qtest> {
        let limit = stream.set_read_timeout(Some(ANSWER_LIMIT));
        limit.map_err(Error::io("set up the test socket"))?;
        Ok(Qtest {
            stream: BufReader::new(stream),
            unanswered: 0,
        })
    }

    /// Sends a command; its answer can be fetched by [`Qtest::answer`] until the next one is sent.
    ///
    /// # Errors
    /// When QEMU is gone, or an answer before was not what it should be.
    pub fn send(&mut self, command: &str) -> Result<()> {
        while self.unanswered > 0 {
            self.answer()?;
        }
        self.unanswered += 1;
        let line = format!("{command}\n");
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        sent.map_err(Error::io(format!("send {command}")))
    }

    /// The answer to the last command, without its `OK`.
    ///
    /// # Errors
    /// When QEMU refuses, is gone or does not answer.
    pub fn answer(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line);
            let bytes = read.map_err(Error::io("read from the test socket"))?;
            if bytes == 0 {
                return Err(Error::Protocol("QEMU closed the test socket".into()));
            }
            let line = line.trim();
            match line.split_once(' ').unwrap_or((line, "")) {
                ("OK", rest) => {
                    self.unanswered -= 1;
                    return Ok(rest.to_string());
                }
                ("IRQ", _) => {}
                _ => return Err(Error::Protocol(format!("the test server said {line:?}"))),
            }
        }
    }

    /// Runs a command.
    ///
    /// # Errors
    /// As [`Qtest::send`] and [`Qtest::answer`].
    pub fn call(&mut self, command: &str) -> Result<String> {
        self.send(command)?;
        self.answer()
    }

    /// Reads a number by one of the protocol's commands, such as `inl 0xcfc`.
    ///
    /// # Errors
    /// As [`Qtest::call`], and when the answer is no number.
    pub fn number(&mut self, command: &str) -> Result<u64> {
        let answer = self.call(command)?;
        let digits = answer.trim_start_matches("0x");
        u64::from_str_radix(digits, 16)
            .map_err(|_| Error::Protocol(format!("{command}: the answer is {answer:?}")))
    }
}
