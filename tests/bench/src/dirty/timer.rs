// SPDX-License-Identifier: GPL-2.0-or-later
//! Times of parts that follow each other.

use std::time::Instant;

use crate::sys::thread_cpu_ns;

/// Clocks of this thread: the one that is read at the end of each part is quick, the other one does not go
/// on while other programs have the processor.
#[derive(Debug)]
pub struct Timer {
    cpu_ns: u64,
    last: Instant,
}

impl Timer {
    /// The first part begins.
    pub fn start() -> Timer {
        let cpu_ns = thread_cpu_ns();
        let last = Instant::now();
        Timer { cpu_ns, last }
    }

    /// A part ends and the next one begins; gives the nanoseconds that it took.
    pub fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let took = now.duration_since(self.last);
        self.last = now;
        took.as_nanos() as f64
    }

    /// The last part has ended. Gives the `parts` without what other programs took, which may have been in
    /// any of them.
    pub fn end<const N: usize>(self, parts: [f64; N]) -> [f64; N] {
        let cpu_ns = (thread_cpu_ns() - self.cpu_ns) as f64;
        let all: f64 = parts.iter().sum();
        // Reading that clock takes longer than some rounds, and is in it.
        let part = if cpu_ns < all { cpu_ns / all } else { 1.0 };
        parts.map(|ns| ns * part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn the_time_of_others_is_not_counted() {
        let mut timer = Timer::start();
        thread::sleep(Duration::from_millis(20));
        let slept = timer.lap();
        assert!(slept >= 20e6);
        let [counted] = timer.end([slept]);
        assert!(counted < slept);
    }
}
