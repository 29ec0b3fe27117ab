// SPDX-License-Identifier: GPL-2.0-or-later
//! A machine in a QEMU of its own without Linux: it boots a disk of the test's, and the test
//! writes to its memory as a device does.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dirty::PAGE;
use crate::lines::Lines;
use crate::qmp::Qmp;
use crate::vm::{Starting, end, no_child, scratch_dir, tail_of_file, with_said};
use crate::{Error, PATIENCE, Result};

const ANSWER_LIMIT: Duration = Duration::from_secs(30 * PATIENCE as u64);

/// How to start it.
#[derive(Debug, Clone)]
pub struct BareConfig {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// What `-accel` takes.
    pub accel: String,
    /// RAM in MiB; it is shared memory that can be looked at from outside.
    pub memory_mib: u64,
    /// Processors.
    pub processors: u64,
    /// What is on the disk.
    pub disk: Vec<u8>,
    /// More arguments for QEMU.
    pub more_arguments: Vec<String>,
}

/// A machine that was started. It waits for `cont` or `migrate-incoming`.
#[derive(Debug)]
pub struct Bare {
    child: Child,
    dir: PathBuf,
    qmp: Qmp,
    qtest: Lines,
}

impl Bare {
    /// Starts QEMU.
    ///
    /// # Errors
    /// When it does not start, with its own words.
    pub fn start(config: &BareConfig) -> Result<Bare> {
        let dir = scratch_dir()?;
        let started = Bare::launch(config, &dir);
        if started.is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        started
    }

    fn launch(config: &BareConfig, dir: &Path) -> Result<Bare> {
        let bind = |name: &str| {
            let path = dir.join(name);
            UnixListener::bind(&path).map_err(Error::io(path.display().to_string()))
        };
        let sockets = [bind("qtest")?, bind("monitor")?];
        fs::write(dir.join("disk"), &config.disk).map_err(Error::io("make a disk"))?;
        let log = dir.join("stderr");
        let stderr = fs::File::create(&log).map_err(Error::io("make QEMU's log"))?;
        let child = Command::new(&config.qemu)
            .args(arguments(config, dir))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(Error::io(format!("start {}", config.qemu.display())))?;
        let mut starting = Starting(Some(child));
        let [qtest, monitor]: [Result<UnixStream>; 2] = sockets.map(|s| starting.accept(&s, &log));
        let (qtest, monitor) = (qtest?, monitor?);
        let qmp = Qmp::new(Lines::new("monitor", monitor))
            .map_err(|e| with_said(e, &tail_of_file(&log)))?;
        Ok(Bare {
            child: starting.0.take().ok_or_else(no_child)?,
            dir: dir.into(),
            qmp,
            qtest: Lines::new("test line", qtest),
        })
    }

    /// The number of QEMU's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens for a machine that moves to it.
    pub fn uri(&self) -> String {
        format!("unix:{}", self.dir.join("migration").display())
    }

    /// What QEMU said, traces included.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }

    /// Runs a monitor command.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let answer = self.qmp.execute(command, arguments);
        answer.map_err(|e| self.explain(e))
    }

    /// The next event called `name`.
    ///
    /// # Errors
    /// When there is none within `limit`.
    pub fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let event = self.qmp.wait_event(name, limit * PATIENCE);
        event.map_err(|e| self.explain(e))
    }

    /// Fills a page with `byte` as a device would.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn fill(&mut self, page: u64, byte: u8) -> Result<()> {
        let (at, size) = (page * PAGE, PAGE);
        self.qtest
            .send(&format!("memset {at:#x} {size:#x} {byte:#x}"))?;
        match self.qtest.next(Instant::now() + ANSWER_LIMIT)? {
            Some(answer) if answer == "OK" => Ok(()),
            other => Err(self.explain(Error::Protocol(format!("memset: {other:?}")))),
        }
    }

    /// Asks again and again until `done` says so.
    ///
    /// # Errors
    /// [`Error::Timeout`] when that is not within `limit`, or what `done` returns.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&mut Bare) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !done(self)? {
            if Instant::now() > deadline {
                return Err(self.explain(Error::Timeout {
                    what: what.into(),
                    after: limit,
                }));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn explain(&self, error: Error) -> Error {
        let log = self.dir.join("stderr");
        with_said(error, &format!("QEMU said: {}", tail_of_file(&log)))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        end(&mut self.child);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn arguments(config: &BareConfig, dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    let mib = config.memory_mib;
    let pairs = [
        ("-accel", config.accel.clone()),
        ("-machine", "pc,memory-backend=ram0".into()),
        (
            "-object",
            format!("memory-backend-memfd,id=ram0,size={mib}M"),
        ),
        ("-m", format!("{mib}M")),
        ("-smp", config.processors.to_string()),
        ("-display", "none".into()),
        ("-L", "/usr/share/qemu".into()),
        ("-L", "/usr/share/seabios".into()),
        ("-drive", format!("file={},format=raw,if=ide", path("disk"))),
        (
            "-chardev",
            format!("socket,id=qtest,path={}", path("qtest")),
        ),
        ("-qtest", "chardev:qtest".into()),
        (
            "-chardev",
            format!("socket,id=monitor,path={}", path("monitor")),
        ),
        ("-mon", "chardev=monitor,mode=control".into()),
    ];
    let pairs = pairs
        .into_iter()
        .flat_map(|(name, value)| [name.into(), value]);
    let mut args = vec!["-nodefaults".into(), "-S".into()];
    args.extend(pairs);
    args.extend(config.more_arguments.iter().cloned());
    args
}
