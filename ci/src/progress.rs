// SPDX-License-Identifier: GPL-2.0-or-later

//! One line that says how far a long step is.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Without a terminal a line is printed at most this often.
const QUIET: Duration = Duration::from_secs(5);
/// On a terminal the line is redrawn at most this often.
const REDRAW: Duration = Duration::from_millis(100);
/// A redrawn line is cut here, as one that wraps cannot be redrawn.
const WIDTH: usize = 78;

/// Reads ninja's `[n/m] what` at the start of a line.
pub(crate) fn ninja(line: &str) -> Option<(u32, u32, &str)> {
    let (count, what) = line.strip_prefix('[')?.split_once("] ")?;
    let (done, all) = count.split_once('/')?;
    Some((
        done.trim().parse().ok()?,
        all.trim().parse().ok()?,
        what.trim(),
    ))
}

/// The short form of a duration: `7 s`, `4 min 02 s`.
pub(crate) fn took(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        secs @ 1..60 => format!("{secs} s"),
        secs => format!("{} min {:02} s", secs / 60, secs % 60),
    }
}

/// The line of one step, updated while it runs.
pub(crate) struct Progress {
    name: String,
    start: Instant,
    shown: Instant,
    tty: bool,
    drawn: bool,
}

impl Progress {
    /// Says what the step is about to do.
    pub(crate) fn new(name: &str) -> Self {
        let now = Instant::now();
        let tty = std::io::stdout().is_terminal();
        let mut new = Self {
            name: name.into(),
            start: now,
            shown: now,
            tty,
            drawn: false,
        };
        new.draw("...");
        new
    }

    /// Takes a line of the step's output.
    pub(crate) fn line(&mut self, line: &str) {
        let every = if self.tty { REDRAW } else { QUIET };
        if self.shown.elapsed() < every {
            return;
        }
        match ninja(line) {
            Some((done, all, _)) => {
                let time = took(self.start.elapsed());
                self.draw(&format!("[{done}/{all}] {time}"));
            }
            None if self.tty || self.shown.elapsed() >= 4 * QUIET => {
                self.draw(&took(self.start.elapsed()));
            }
            None => {}
        }
    }

    /// Ends the line with the time that the step took.
    pub(crate) fn end(mut self, result: &str) {
        let time = took(self.start.elapsed());
        self.draw(&format!("{result} in {time}"));
        if self.tty {
            println!();
        }
    }

    fn draw(&mut self, state: &str) {
        let line: String = format!("  {}: {state}", self.name)
            .chars()
            .take(WIDTH)
            .collect();
        if self.tty {
            print!("{}{line}\x1b[K", if self.drawn { "\r" } else { "" });
            // A terminal that went away is no reason to fail a build.
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
        self.drawn = true;
        self.shown = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ninja_counts_are_read() {
        assert_eq!(
            ninja("[12/1651] Compiling C object x.o"),
            Some((12, 1651, "Compiling C object x.o"))
        );
        assert_eq!(ninja("[1/1] "), Some((1, 1, "")));
        assert_eq!(ninja("ninja: no work to do."), None);
        assert_eq!(ninja("[x/2] y"), None);
        assert_eq!(ninja(""), None);
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(took(Duration::from_millis(12)), "12 ms");
        assert_eq!(took(Duration::from_secs(59)), "59 s");
        assert_eq!(took(Duration::from_secs(242)), "4 min 02 s");
    }
}
