// SPDX-License-Identifier: GPL-2.0-or-later
//! One session: a machine, what its guest does and what its operator does.

use std::fmt;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fuzz::random::Random;
use serde_json::{Value, json};

use crate::driver::Driver;
use crate::operator;
use crate::session::{Checked, Session, Wrong};
use crate::transport::{Kind, SLOT, Transport};

/// Steps of a session; one of a sanitized QEMU takes about a second to start.
const STEPS: usize = 400;
const KINDS: [Kind; 4] = [Kind::Modern, Kind::Legacy, Kind::Mmio, Kind::LegacyMmio];
/// How long a migration to a file takes at most.
const MIGRATION: Duration = Duration::from_secs(120);
/// I/O ports of the chipset: which slots are ejected, and which DIMM is selected and ejected.
const EJECT_SLOT: &str = "outl 0xae08";
const SELECT_DIMM: &str = "outl 0xa00";
const EJECT_DIMM: &str = "outb 0xa14";

/// What came of a session.
pub(crate) struct Ended {
    /// What was told.
    pub(crate) script: Vec<String>,
    /// What the device did: a guest that gets nothing through tries nothing out.
    pub(crate) work: Work,
    /// The most processor time that an answer of the monitor took.
    pub(crate) longest: Duration,
    /// What is wrong, if anything.
    pub(crate) wrong: Option<Wrong>,
}

/// Runs the session that follows from `seed`.
pub(crate) fn session(qemu: &Path, dir: &Path, seed: u64) -> Ended {
    let mut random = Random::new(seed);
    let kind = KINDS[random.below(KINDS.len())];
    let device = device(kind, &mut random);
    let arguments = arguments(kind, &device, &mut random);
    let mut session = match Session::start(qemu, dir, &arguments) {
        Ok(session) => session,
        Err(wrong) => {
            return Ended {
                script: vec![json!(arguments).to_string()],
                work: Work::default(),
                longest: Duration::ZERO,
                wrong: Some(wrong),
            };
        }
    };
    let mut course = Course {
        qemu,
        kind,
        device,
        arguments,
        driver: Driver::new(),
        transport: None,
        stopped: false,
        work: Work::default(),
    };
    let ran = course.run(&mut session, &mut random);
    let (script, longest) = (session.script.clone(), session.longest);
    let wrong = ran.and_then(|()| session.end()).err();
    Ended {
        script,
        work: course.work,
        longest,
        wrong,
    }
}

struct Course<'a> {
    qemu: &'a Path,
    kind: Kind,
    device: String,
    arguments: Vec<String>,
    driver: Driver,
    transport: Option<Transport>,
    /// The operator may have stopped the machine.
    stopped: bool,
    /// What devices did that are gone, and at the end all of it.
    work: Work,
}

impl Course<'_> {
    fn run(&mut self, session: &mut Session, random: &mut Random) -> Checked<()> {
        self.find(session, random)?;
        for _ in 0..STEPS {
            self.step(session, random)?;
        }
        self.look(session)?;
        session.check_words()
    }

    fn find(&mut self, session: &mut Session, random: &mut Random) -> Checked<()> {
        self.transport = Transport::find(session, self.kind)?;
        match self.transport {
            Some(transport) => self.driver.start(session, transport, random),
            None => Ok(()),
        }
    }

    fn step(&mut self, session: &mut Session, random: &mut Random) -> Checked<()> {
        if self.stopped && random.one_in(6) {
            session.monitor(&json!({ "execute": "cont" }))?;
            self.stopped = false;
        }
        let what = random.below(100);
        if what >= 70 {
            return self.operate(what, session, random);
        }
        let Some(transport) = self.transport else {
            return match random.one_in(4) {
                true => self.plug(session, random),
                false => Ok(()),
            };
        };
        match what {
            0..40 => self.driver.request(session, transport, random),
            40..44 => transport.notify(session, random.number() % 9),
            44..50 => self.driver.recover(session, transport, random),
            50..53 => self.driver.corrupt(session, random),
            53..56 => transport.poke(session, random),
            56..60 => self.driver.reset_queue(session, transport, random),
            60 => self.driver.answer_hints(session, transport, random),
            61..66 => {
                let value = random.number() & 0xffff_ffff;
                transport.configure(session, random.number() % 5 * 4, value)
            }
            _ => self.driver.start(session, transport, random),
        }
    }

    fn operate(&mut self, what: usize, session: &mut Session, random: &mut Random) -> Checked<()> {
        match what {
            70..85 => {
                self.stopped |= operator::command(session, random)?;
                Ok(())
            }
            85..95 => {
                let step = random.number() % 30_000_000_000;
                session.qtest(&format!("clock_step {step}")).map(drop)
            }
            95 if self.kind.is_pci() => self.unplug(session, random),
            96 if self.kind.is_pci() => self.plug(session, random),
            97 if self.kind.is_pci() => dimm(session, random),
            98 => self.migrate(session, random),
            _ => self.find(session, random),
        }
    }

    fn unplug(&mut self, session: &mut Session, random: &mut Random) -> Checked<()> {
        session.monitor(&json!({ "execute": "device_del", "arguments": { "id": "balloon0" } }))?;
        if !random.one_in(4) {
            self.look(session)?;
            session.qtest(&format!("{EJECT_SLOT} {:#x}", 1 << SLOT))?;
            self.transport = None;
        }
        Ok(())
    }

    /// Adds what the device did that there is now.
    fn look(&mut self, session: &mut Session) -> Checked<()> {
        for (name, count) in NAMES.iter().zip(&mut self.work.0) {
            let get = json!({ "path": "/machine/peripheral/balloon0", "property": name });
            let answer = session.monitor(&json!({ "execute": "qom-get", "arguments": get }))?;
            *count += answer.and_then(|number| number.as_u64()).unwrap_or(0);
        }
        Ok(())
    }

    fn plug(&mut self, session: &mut Session, random: &mut Random) -> Checked<()> {
        let mut arguments = json!({});
        for (number, part) in self.device.split(',').enumerate() {
            match part.split_once('=') {
                None if number == 0 => arguments["driver"] = part.into(),
                Some((name, value)) => arguments[name] = typed(name, value),
                None => {}
            }
        }
        let added = session.monitor(&json!({ "execute": "device_add", "arguments": arguments }))?;
        match added {
            Some(_) => self.find(session, random),
            None => Ok(()),
        }
    }

    /// To a file, and from there, whole or damaged, into another QEMU.
    fn migrate(&mut self, session: &mut Session, random: &mut Random) -> Checked<()> {
        let uri = format!("file:{}/stream", session.dir().display());
        let _ = fs::remove_file(session.dir().join("stream"));
        let migrate = json!({ "execute": "migrate", "arguments": { "uri": uri } });
        if session.monitor(&migrate)?.is_none() {
            return Ok(());
        }
        wait_migrated(session, |session| match self.transport {
            Some(transport) => self.driver.answer_hints(session, transport, random),
            None => Ok(()),
        })?;
        let changes: Vec<String> = (0..random.below(4))
            .map(|_| format!("{}:{}", random.number() >> 16, random.byte()))
            .collect();
        let changes = changes.join(",");
        session.script.push(format!("load {changes}"));
        load(self.qemu, session, &self.arguments, &changes)?;
        self.stopped = false;
        session.monitor(&json!({ "execute": "cont" })).map(drop)
    }
}

/// The monitor wants properties with their types. A slot is a text.
fn typed(name: &str, value: &str) -> Value {
    match (value, value.parse::<u64>()) {
        ("on", _) => true.into(),
        ("off", _) => false.into(),
        (_, Ok(number)) if name != "addr" => number.into(),
        _ => value.into(),
    }
}

/// Counters of the device.
const NAMES: [&str; 7] = [
    "batches",
    "requests",
    "discards",
    "reported-bytes",
    "hint-rounds",
    "hinted-bytes",
    "malformed-messages",
];

/// What devices did, by their counters.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work([u64; NAMES.len()]);

impl Work {
    /// Whether not even one batch was worked off, the first of the counters.
    pub(crate) fn is_idle(self) -> bool {
        self.0[0] == 0
    }

    pub(crate) fn add(&mut self, other: Work) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, count)) in NAMES.iter().zip(self.0).enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{name} {count}")?;
        }
        Ok(())
    }
}

/// Waits until a migration is over, whatever came of it, and does `meanwhile` again and again. How
/// often that takes a look is no part of the script.
fn wait_migrated(
    session: &mut Session,
    mut meanwhile: impl FnMut(&mut Session) -> Checked<()>,
) -> Checked<()> {
    let deadline = Instant::now() + MIGRATION;
    loop {
        meanwhile(session)?;
        let told = session.script.len();
        let answer = session.monitor(&json!({ "execute": "query-migrate" }))?;
        let status = answer.map(|answer| answer["status"].to_string());
        let is_over = ["\"completed\"", "\"failed\"", "\"cancelled\"", "null"];
        if status.is_none_or(|status| is_over.contains(&status.as_str())) {
            session.script.truncate(told);
            return Ok(());
        }
        // Without it a test machine's clock stands still.
        session.qtest("clock_step 100000000")?;
        session.script.truncate(told);
        if Instant::now() > deadline {
            return Err("a migration to a file does not end".into());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Loads the stream of `session`, with these changes of its bytes: `PLACE:BYTE,...`. A damaged one
/// may be refused, by an error that says so.
pub(crate) fn load(
    qemu: &Path,
    session: &mut Session,
    arguments: &[String],
    changes: &str,
) -> Checked<()> {
    wait_migrated(session, |_| Ok(()))?;
    let path = session.dir().join("stream");
    let Ok(mut stream) = fs::read(&path) else {
        return Ok(());
    };
    // The device's state is behind the pages, at the end.
    let tail = stream.len().saturating_sub(6000);
    for change in changes.split(',').filter(|change| !change.is_empty()) {
        let numbers = change
            .split_once(':')
            .map(|(at, byte)| (at.parse::<u64>(), byte.parse()));
        let Some((Ok(at), Ok(byte))) = numbers else {
            return Err(format!("no change: {change}"));
        };
        let len = (stream.len() - tail) as u64;
        if len > 0 {
            stream[tail + (at % len) as usize] = byte;
        }
    }
    fs::write(&path, stream).map_err(|e| format!("write {}: {e}", path.display()))?;
    let mut incoming = arguments.to_vec();
    incoming.extend(["-incoming".into(), "defer".into()]);
    let dir = session.dir().join("to");
    let mut to = Session::start(qemu, &dir, &incoming)?;
    let uri = format!("file:{}", path.display());
    let arguments = json!({ "uri": uri, "exit-on-error": false });
    to.monitor(&json!({ "execute": "migrate-incoming", "arguments": arguments }))?;
    wait_migrated(&mut to, |_| Ok(()))?;
    to.monitor(&json!({ "execute": "query-balloon" }))?;
    to.monitor(&json!({ "execute": "cont" }))?;
    to.qtest("clock_step 1000000000")?;
    to.end()
}

fn dimm(session: &mut Session, random: &mut Random) -> Checked<()> {
    if random.one_in(2) {
        let del = json!({ "execute": "device_del", "arguments": { "id": "dimm0" } });
        if session.monitor(&del)?.is_some() {
            session.qtest(&format!("{SELECT_DIMM} 0x0"))?;
            session.qtest(&format!("{EJECT_DIMM} 0x8"))?;
        }
        return Ok(());
    }
    let backend = json!({ "qom-type": "memory-backend-ram", "id": "more", "size": 16 << 20 });
    session.monitor(&json!({ "execute": "object-add", "arguments": backend }))?;
    let dimm = json!({ "driver": "pc-dimm", "id": "dimm0", "memdev": "more" });
    session
        .monitor(&json!({ "execute": "device_add", "arguments": dimm }))
        .map(drop)
}

/// The balloon, with any of its options.
fn device(kind: Kind, random: &mut Random) -> String {
    let mut device = match kind {
        Kind::Modern => format!("virtio-balloon-rs-pci-non-transitional,addr={SLOT}"),
        Kind::Legacy => format!("virtio-balloon-rs-pci-transitional,addr={SLOT}"),
        Kind::Mmio | Kind::LegacyMmio => "virtio-balloon-rs-device".into(),
    };
    device += ",id=balloon0";
    let mut options = vec![
        "must-tell-host",
        "deflate-on-oom",
        "free-page-reporting",
        "event_idx",
        "indirect_desc",
    ];
    // Without hints a migration has nothing to ask.
    device += &format!(
        ",free-page-hint={}",
        if random.one_in(4) { "off" } else { "on" }
    );
    if !kind.is_legacy() {
        options.extend(["packed", "in_order", "page-range", "host-request"]);
        options.extend(["balloon-chunks", "misc-queue", "queue_reset"]);
    }
    for option in options {
        let value = if random.one_in(2) { "on" } else { "off" };
        device += &format!(",{option}={value}");
    }
    if random.one_in(3) {
        device += ",inflate-hold-ms=0";
    }
    device
}

fn arguments(kind: Kind, device: &str, random: &mut Random) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |name: &str, value: &str| arguments.extend([name.into(), value.into()]);
    let machine = match kind.is_pci() {
        true => "pc,pit=off,hpet=off",
        false => "microvm",
    };
    add("-machine", &format!("{machine},memory-backend=ram0"));
    let backend = match random.below(3) {
        0 => "memory-backend-memfd,share=on",
        1 => "memory-backend-ram,share=on",
        _ => "memory-backend-ram",
    };
    add("-object", &format!("{backend},id=ram0,size=64M"));
    let memory = match kind.is_pci() {
        true => "64M,slots=2,maxmem=256M",
        false => "64M",
    };
    add("-m", memory);
    if !kind.is_pci() {
        let legacy = kind == Kind::LegacyMmio;
        add("-global", &format!("virtio-mmio.force-legacy={legacy}"));
    }
    add("-device", device);
    arguments
}
