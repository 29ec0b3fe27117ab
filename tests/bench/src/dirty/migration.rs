// SPDX-License-Identifier: GPL-2.0-or-later
//! Migrations of the same guest by the same QEMU, with the dirty list and without.
//!
//! The guest is [`pulse`] under KVM, whose dirty ring is on. The migration may send so little that the guest
//! has written all of its pages again before a late round is over, and may not end, until some rounds
//! were measured. Nobody receives it.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use guest::lines::Lines;
use guest::qmp::Qmp;
use guest::{Error, Result};
use serde_json::json;

use crate::dirty::pulse;
use crate::dirty::trace::{EVENTS, Sync, Trace};
use crate::figures::Spread;
use crate::machine::scratch_dir;

/// Guest RAM in GiB. Hardly anything is behind it, but all of it is looked at once.
pub const RAM_GIB: [u64; 3] = [4, 64, 256];
/// Late rounds that are measured, at least.
const LATE: u64 = 12;
/// The first synchronization finds all dirty, the second what was written while that was sent.
const EARLY: u64 = 2;
/// In bytes a second: so little that a late round takes a fifth of a second, and as much as it can.
const SLOW: u64 = 5 * pulse::PAGES * 4096;
const FAST: u64 = 10 << 30;
/// The first round takes so long at least, that the guest writes all of its pages meanwhile.
const FIRST_SECONDS: u64 = 2;
/// What QEMU sends for a page of zeros.
const ZERO_BYTES: u64 = 9;
/// The guest may stand still for so long, in ms: for a handful of pages (with 0 QEMU looks no more what was
/// written, and ends), and until all is sent.
const HARDLY: u64 = 1;
const AT_ONCE: u64 = 10_000;
const POLL: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(180);
/// Until the guest has written all of its pages once.
const WARM: Duration = Duration::from_millis(1000);
/// A guest that other programs keep from running has written nothing in some round, which ends the
/// migration before its time; it is tried so often.
const TRIES: u32 = 4;
/// Room in each ring of the list.
const MAX_DIRTY: u64 = 65536;
const LIST: &str = "dirty-page-list";

/// One migration.
#[derive(Debug, Clone)]
pub struct Moved {
    /// The guest's RAM.
    pub ram_gib: u64,
    /// Whether there was a list.
    pub listed: bool,
    /// Its late synchronizations, the guest running.
    pub late: Vec<Sync>,
    /// The last one, the guest standing still.
    pub last: Sync,
    /// How long it stood still, in microseconds.
    pub downtime_us: f64,
    /// Synchronizations that took the list, and that had to look at all bitmaps, as QEMU counts them.
    pub counts: Option<(u64, u64)>,
}

/// All migrations, or why there are none.
#[derive(Debug, Default)]
pub struct Migrations {
    /// What was measured.
    pub moved: Vec<Moved>,
    /// Why something was left out.
    pub left_out: Option<String>,
}

impl Migrations {
    /// Median and spread of a figure over all migrations with so much RAM; microseconds.
    pub fn spread(&self, ram_gib: u64, listed: bool, of: fn(&Moved) -> Vec<f64>) -> Option<Spread> {
        let mine = self.moved.iter();
        let mine = mine.filter(|m| (m.ram_gib, m.listed) == (ram_gib, listed));
        Spread::of(mine.flat_map(of))
    }
}

/// A figure's name in files, its title in tables, and where it is.
pub type Figure = (&'static str, &'static str, fn(&Moved) -> Vec<f64>);

/// What is told of migrations; all in microseconds.
pub const FIGURES: [Figure; 4] = [
    ("late_sync_us", "a late synchronization", |m| {
        m.late.iter().map(|sync| sync.us).collect()
    }),
    (
        "late_sync_rest_us",
        "  of it without reading the ring, and noting what was in it",
        |m| m.late.iter().map(|sync| sync.us - sync.reap_us).collect(),
    ),
    (
        "last_sync_us",
        "the last one, the guest standing still",
        |m| vec![m.last.us],
    ),
    ("downtime_us", "the guest stands still", |m| {
        vec![m.downtime_us]
    }),
];

/// Migrates `runs` times with each size of `ram`, without a list and with it in turn.
///
/// # Errors
/// When a migration fails.
pub fn run(qemu: &Path, runs: u32, ram: &[u64], all: &mut Migrations) -> Result<()> {
    if let Err(why) = File::options().read(true).write(true).open("/dev/kvm") {
        let why = format!("no migration was measured: /dev/kvm cannot be used: {why}");
        println!("  {why}");
        all.left_out = Some(why);
        return Ok(());
    }
    let has_list = objects(qemu)?.contains(LIST);
    if !has_list {
        let why = format!("only migrations without the list: this QEMU has no object {LIST}");
        println!("  {why}");
        all.left_out = Some(why);
    }
    for round in 0..runs {
        for ram_gib in RAM_GIB
            .into_iter()
            .filter(|gib| ram.is_empty() || ram.contains(gib))
        {
            for turn in 0..2 {
                let listed = (round + turn) % 2 == 1;
                if listed && !has_list {
                    continue;
                }
                let moved = one(qemu, ram_gib, listed)?;
                println!("  {}", line(&moved));
                all.moved.push(moved);
            }
        }
    }
    Ok(())
}

fn line(moved: &Moved) -> String {
    let median = |of: fn(&Moved) -> Vec<f64>| Spread::of(of(moved)).map_or(0.0, |s| s.median);
    let (with, counts) = match moved.counts {
        Some((list, scan)) => ("with", format!(", {list} by list, {scan} by scan")),
        None => ("without", String::new()),
    };
    format!(
        "{} GiB {with} a list: {} late syncs {:.0} us, the last {:.0} us, down {:.0} us{counts}",
        moved.ram_gib,
        moved.late.len(),
        median(FIGURES[0].2),
        moved.last.us,
        moved.downtime_us,
    )
}

fn objects(qemu: &Path) -> Result<String> {
    let out = Command::new(qemu).args(["-object", "help"]).output();
    let out = out.map_err(Error::io(format!("run {}", qemu.display())))?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn one(qemu: &Path, ram_gib: u64, listed: bool) -> Result<Moved> {
    let mut late = 0;
    for _ in 0..TRIES {
        let moved = once(qemu, ram_gib, listed)?;
        late = moved.late.len();
        if late as u64 >= LATE {
            return Ok(moved);
        }
    }
    let what = format!("the guest hardly ran: {late} late rounds of {LATE}");
    Err(Error::Tool(what))
}

fn once(qemu: &Path, ram_gib: u64, listed: bool) -> Result<Moved> {
    let mut source = Source::start(qemu, ram_gib, listed)?;
    source
        .migrate(ram_gib)
        .map_err(|error| source.explain(error))?;
    let counts = listed.then(|| source.counts()).transpose()?;
    let trace = Trace::read(&source.log());
    let running = trace.syncs.iter().filter(|s| !s.stopped);
    let last = trace.syncs.iter().rfind(|s| s.stopped);
    let (Some(&last), Some(downtime_us)) = (last, trace.downtime_us) else {
        let what = "QEMU's log has no end of a migration".into();
        return Err(source.explain(Error::Protocol(what)));
    };
    Ok(Moved {
        ram_gib,
        listed,
        late: running.skip(EARLY as usize).copied().collect(),
        last,
        downtime_us,
        counts,
    })
}

/// A QEMU that runs the guest; it ends when this is dropped.
struct Source {
    child: Child,
    dir: PathBuf,
    qmp: Qmp,
}

impl Source {
    fn start(qemu: &Path, ram_gib: u64, listed: bool) -> Result<Source> {
        let dir = scratch_dir()?;
        let launched = launch(qemu, &dir, ram_gib, listed);
        let (mut child, socket) = launched.inspect_err(|_| {
            let _ = fs::remove_dir_all(&dir);
        })?;
        match Qmp::new(Lines::new("monitor", socket)) {
            Ok(qmp) => Ok(Source { child, dir, qmp }),
            Err(source) => {
                end(&mut child);
                let said = said(&dir);
                let _ = fs::remove_dir_all(&dir);
                let source = Box::new(source);
                Err(Error::Machine { source, said })
            }
        }
    }

    fn explain(&self, source: Error) -> Error {
        Error::Machine {
            source: Box::new(source),
            said: said(&self.dir),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("trace")).unwrap_or_default()
    }

    fn limits(&mut self, bandwidth: u64, downtime_ms: u64) -> Result<()> {
        let limits = json!({ "max-bandwidth": bandwidth, "downtime-limit": downtime_ms });
        self.qmp.execute("migrate-set-parameters", limits).map(drop)
    }

    fn migrate(&mut self, ram_gib: u64) -> Result<()> {
        thread::sleep(WARM);
        // Zeros are looked for no faster than this in a large guest.
        let first = ram_gib * (1 << 18) * ZERO_BYTES / FIRST_SECONDS;
        self.limits(first.min(2 * SLOW), HARDLY)?;
        self.qmp
            .execute("migrate", json!({ "uri": "exec:cat >/dev/null" }))?;
        let deadline = Instant::now() + LIMIT;
        let steps = [(EARLY, SLOW, HARDLY), (EARLY + LATE, FAST, AT_ONCE)];
        let mut steps = steps.into_iter().peekable();
        while Instant::now() < deadline {
            thread::sleep(POLL);
            let state = self.qmp.execute("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    return Err(Error::Protocol(format!("the migration failed: {state}")));
                }
                _ => {}
            }
            let syncs = state["ram"]["dirty-sync-count"].as_u64().unwrap_or(0);
            if let Some((_, bandwidth, downtime)) = steps.next_if(|(count, ..)| syncs >= *count) {
                self.limits(bandwidth, downtime)?;
            }
        }
        Err(Error::Timeout {
            what: "end of the migration".into(),
            after: LIMIT,
        })
    }

    fn counts(&mut self) -> Result<(u64, u64)> {
        let mut get = |property: &str| {
            let question = json!({ "path": "/objects/dl0", "property": property });
            let answer = self.qmp.execute("qom-get", question)?;
            let odd = || Error::Protocol(format!("{property} is {answer}"));
            answer.as_u64().ok_or_else(odd)
        };
        Ok((get("list-syncs")?, get("scan-syncs")?))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        end(&mut self.child);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn said(dir: &Path) -> String {
    fs::read_to_string(dir.join("stderr")).unwrap_or_default()
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn launch(qemu: &Path, dir: &Path, ram_gib: u64, listed: bool) -> Result<(Child, UnixStream)> {
    let rom = dir.join("rom");
    fs::write(&rom, pulse::rom()).map_err(Error::io("write the guest's program"))?;
    let stderr = File::create(dir.join("stderr")).map_err(Error::io("make QEMU's log"))?;
    let (ours, theirs) = UnixStream::pair().map_err(Error::io("make a socket"))?;
    let ram_mib = ram_gib * 1024;
    let mut command = Command::new(qemu);
    command.args([
        "-nodefaults",
        "-display",
        "none",
        "-accel",
        "kvm,dirty-ring-size=4096",
    ]);
    command.args([
        "-machine",
        "pc,memory-backend=ram0",
        "-m",
        &format!("{ram_mib}M"),
    ]);
    let ram = format!("memory-backend-ram,id=ram0,size={ram_mib}M,reserve=off");
    command.args(["-object", &ram]).arg("-bios").arg(rom);
    // The monitor is where other programs have their input.
    command.args(["-chardev", "socket,id=monitor,fd=0"]);
    command.args(["-mon", "chardev=monitor,mode=control"]);
    command
        .args(["-msg", "timestamp=on", "-D"])
        .arg(dir.join("trace"));
    for event in EVENTS {
        command.args(["-trace", event]);
    }
    if listed {
        command.args(["-object", &format!("{LIST},id=dl0,max-dirty={MAX_DIRTY}")]);
    }
    command
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(stderr);
    let child = command.spawn();
    let child = child.map_err(Error::io(format!("start {}", qemu.display())))?;
    Ok((child, ours))
}
