// SPDX-License-Identifier: GPL-2.0-or-later
//! What QEMU's log says of a migration: how long its synchronizations took, and how long the guest stood
//! still.

/// As after `-trace`.
pub const EVENTS: [&str; 3] = [
    "migration_bitmap_sync_*",
    "vmstate_downtime_checkpoint",
    "kvm_dirty_ring_reap",
];

const DAY_US: f64 = 86_400e6;

/// A synchronization of the migration's bitmap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sync {
    /// How long it took, in microseconds.
    pub us: f64,
    /// Of it reading KVM's rings and having the pages protected again.
    pub reap_us: f64,
    /// Whether the guest stood still.
    pub stopped: bool,
}

/// What one log says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// All synchronizations, in order.
    pub syncs: Vec<Sync>,
    /// From stopping the guest to the end, in microseconds.
    pub downtime_us: Option<f64>,
}

impl Trace {
    /// Reads lines that begin with a time, as `-msg timestamp=on` makes them; others are passed over.
    pub fn read(log: &str) -> Trace {
        let mut trace = Trace::default();
        let (mut days, mut last) = (0.0, 0.0);
        let (mut began, mut reap_us) = (None, 0.0);
        let mut stopped_at = None;
        for line in log.lines() {
            let Some((time, event)) = line.split_once(' ') else {
                continue;
            };
            let Some(time) = time_of_day_us(time) else {
                continue;
            };
            // Lines of two threads may be out of order by a little, never by half a day.
            if time + DAY_US / 2.0 < last {
                days += 1.0;
            }
            last = time;
            let now = time + days * DAY_US;
            let mut words = event.split_whitespace();
            match (words.next(), words.next()) {
                (Some("migration_bitmap_sync_start"), _) => (began, reap_us) = (Some(now), 0.0),
                (Some("kvm_dirty_ring_reap"), _) => {
                    reap_us += reap_time_us(event).unwrap_or(0.0);
                }
                (Some("migration_bitmap_sync_end"), _) => {
                    if let Some(began) = began.take() {
                        trace.syncs.push(Sync {
                            us: now - began,
                            reap_us,
                            stopped: stopped_at.is_some(),
                        });
                    }
                }
                (_, Some("src-downtime-start")) => stopped_at = Some(now),
                (_, Some("src-downtime-end")) => {
                    trace.downtime_us = stopped_at.map(|at| now - at);
                }
                _ => {}
            }
        }
        trace
    }
}

/// Of `2026-11-22T01:09:33.024450Z`, in microseconds.
fn time_of_day_us(text: &str) -> Option<f64> {
    let (_, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    Some(((hours * 60.0 + minutes) * 60.0 + seconds) * 1e6)
}

/// Of `reaped 12 pages (took 34 us)`.
fn reap_time_us(event: &str) -> Option<f64> {
    let (_, rest) = event.split_once("(took ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_from_start_to_end_also_past_midnight() {
        let log = "2026-11-22T23:59:59.000100Z qemu-system-x86_64: warning: no matter\n\
                   kvm_dirty_ring_reap without a time\n\
                   2026-11-22T23:59:59.000100Z migration_bitmap_sync_start \n\
                   2026-11-22T23:59:59.000200Z kvm_dirty_ring_reap reaped 12 pages (took 34 us)\n\
                   2026-11-22T23:59:59.000350Z migration_bitmap_sync_end dirty_pages 12\n\
                   2026-11-22T23:59:59.000360Z kvm_dirty_ring_reap reaped 1 pages (took 9 us)\n\
                   2026-11-22T23:59:59.999999Z vmstate_downtime_checkpoint src-downtime-start\n\
                   2026-11-22T23:59:59.999999Z migration_bitmap_sync_start \n\
                   2026-11-23T00:00:00.000001Z migration_bitmap_sync_end dirty_pages 3\n\
                   2026-11-23T00:00:00.000099Z vmstate_downtime_checkpoint src-downtime-end\n";
        let trace = Trace::read(log);
        let rounded = |us: f64| us.round() as i64;
        let syncs: Vec<_> = trace.syncs.iter().collect();
        assert_eq!(syncs.len(), 2);
        assert_eq!((rounded(syncs[0].us), rounded(syncs[1].us)), (250, 2));
        assert_eq!((syncs[0].reap_us, syncs[1].reap_us), (34.0, 0.0));
        assert_eq!((syncs[0].stopped, syncs[1].stopped), (false, true));
        assert_eq!(trace.downtime_us.map(rounded), Some(100));
    }

    #[test]
    fn a_migration_that_did_not_end_has_no_down_time() {
        assert_eq!(
            Trace::read("\n\nmigration_bitmap_sync_end"),
            Trace::default()
        );
    }
}
