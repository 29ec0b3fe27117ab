// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest in a QEMU of its own, which ends when this is dropped.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::accel::{self, Accel};
use crate::agent::Agent;
use crate::config::VmConfig;
use crate::lines::Lines;
use crate::qmp::Qmp;
use crate::resident::{self, Resident};
use crate::{Error, MIB, PATIENCE, Result};

/// QEMU connects to our sockets as soon as it has read its command line.
const CONNECT_LIMIT: Duration = Duration::from_secs(20 * PATIENCE as u64);
/// Lines of the console in an error.
const TAIL_LINES: usize = 20;

/// A running guest.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    dir: PathBuf,
    qmp: Qmp,
    agent: Agent,
    console: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
    ram_sizes: Vec<u64>,
    boot_limit: Duration,
}

impl Vm {
    /// Starts QEMU and, unless it is paused or waits for a migration, waits
    /// until the guest is up.
    ///
    /// # Errors
    /// When QEMU does not start, with its own words, or the guest does not boot,
    /// with the end of its console.
    pub fn start(config: &VmConfig) -> Result<Vm> {
        let accel = config
            .accel
            .unwrap_or_else(|| accel::choose(&config.qemu, &config.image));
        let dir = scratch_dir()?;
        let started = Vm::launch(config, accel, &dir);
        if started.is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        let mut vm = started?;
        if !config.paused && !config.incoming {
            vm.wait_ready()?;
        }
        Ok(vm)
    }

    fn launch(config: &VmConfig, accel: Accel, dir: &Path) -> Result<Vm> {
        let bind = |name: &str| {
            let path = dir.join(name);
            UnixListener::bind(&path).map_err(Error::io(path.display().to_string()))
        };
        let sockets = [bind("console")?, bind("agent")?, bind("monitor")?];
        let log = dir.join("stderr");
        let stderr = fs::File::create(&log).map_err(Error::io("make QEMU's log"))?;
        let child = Command::new(&config.qemu)
            .args(config.arguments(accel, dir))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(Error::io(format!("start {}", config.qemu.display())))?;
        let mut starting = Starting(Some(child));
        let [console, agent, monitor] = sockets.map(|s| starting.accept(&s, &log));
        let (console, agent, monitor) = (console?, agent?, monitor?);
        let (console, listener) = listen(console);
        let qmp = Qmp::new(Lines::new("monitor", monitor))
            .map_err(|e| with_said(e, &tail_of_file(&log)))?;
        Ok(Vm {
            child: starting.0.take().ok_or_else(no_child)?,
            dir: dir.into(),
            qmp,
            agent: Agent::new(Lines::new("serial line", agent)),
            console,
            listener: Some(listener),
            ram_sizes: vec![config.memory_mib * MIB],
            boot_limit: config.boot_limit,
        })
    }

    /// Waits for the guest's (next) boot and returns its kernel release.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn wait_ready(&mut self) -> Result<String> {
        let ready = self.agent.wait_ready(self.boot_limit);
        ready.map_err(|e| self.explain(e))
    }

    /// The number of QEMU's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder of its sockets, which goes with it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a monitor command.
    ///
    /// # Errors
    /// When QEMU refuses or does not answer.
    pub fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let answer = self.qmp.execute(command, arguments);
        answer.map_err(|e| self.explain(e))
    }

    /// Runs a monitor command even while QEMU's main loop waits for something, for
    /// a page of the guest for example.
    ///
    /// # Errors
    /// When QEMU refuses, does not answer or cannot run this command so.
    pub fn qmp_out_of_band(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let answer = self.qmp.execute_out_of_band(command, arguments);
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

    /// Forgets the monitor's events so far.
    pub fn clear_events(&mut self) {
        self.qmp.clear_events();
    }

    /// Asks the program in the guest; see [`Agent`].
    ///
    /// # Errors
    /// What `ask` returns, with the end of the console.
    pub fn guest<T>(&mut self, ask: impl FnOnce(&mut Agent) -> Result<T>) -> Result<T> {
        let answer = ask(&mut self.agent);
        answer.map_err(|e| self.explain(e))
    }

    /// Runs a shell command in the guest and returns what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn shell(&mut self, command: &str) -> Result<String> {
        self.guest(|agent| agent.call(&format!("sh {command}")))
    }

    /// Host memory behind the guest's RAM, in bytes.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn resident(&self) -> Result<u64> {
        Ok(self.backing()?.bytes)
    }

    /// The same, with how much of it is in transparent huge pages.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn backing(&self) -> Result<Resident> {
        resident::of_mappings(self.child.id(), &self.ram_sizes).map_err(|e| self.explain(e))
    }

    /// Plugs in a DIMM and brings its memory online in the guest.
    ///
    /// # Errors
    /// When QEMU refuses or the guest does not see it.
    pub fn plug_dimm(&mut self, mib: u64) -> Result<()> {
        let number = self.ram_sizes.len();
        let backend = json!({ "qom-type": "memory-backend-ram", "id": format!("mem{number}"),
                              "size": mib * MIB });
        self.qmp("object-add", backend)?;
        let dimm = json!({ "driver": "pc-dimm", "id": format!("dimm{number}"),
                           "memdev": format!("mem{number}") });
        self.qmp("device_add", dimm)?;
        self.ram_sizes.push(mib * MIB);
        self.wait_until(
            "memory of the DIMM in the guest",
            Duration::from_secs(20),
            |vm| Ok(vm.guest(|agent| agent.call("online"))? != "0"),
        )
    }

    /// Asks again and again until `done` says so.
    ///
    /// # Errors
    /// [`Error::Timeout`] when that is not within `limit`, or what `done` returns.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&mut Vm) -> Result<bool>,
    ) -> Result<()> {
        let limit = limit * PATIENCE;
        let deadline = Instant::now() + limit;
        while !done(self)? {
            if Instant::now() > deadline {
                return Err(self.explain(Error::Timeout {
                    what: what.into(),
                    after: limit,
                }));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// What the guest printed on its console so far.
    pub fn console(&self) -> String {
        let text = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone()
    }

    /// Adds what the guest and QEMU last said to an error.
    pub fn explain(&self, error: Error) -> Error {
        if matches!(error, Error::Machine { .. }) {
            return error;
        }
        let console = tail(&self.console());
        let qemu = tail_of_file(&self.dir.join("stderr"));
        with_said(
            error,
            &format!("QEMU said: {qemu}\nthe guest's console: {console}"),
        )
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        end(&mut self.child);
        // Its last words are read, too: the console is closed with QEMU.
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        let _ = fs::remove_dir_all(&self.dir);
        // An error or a failed assertion is on its way and says more.
        if let (Some(warning), false) = (warning(&self.console()), thread::panicking()) {
            panic!("the guest's kernel found something wrong:\n{warning}");
        }
    }
}

/// What Linux says where it finds that it, or the device, does what cannot be.
const WARNINGS: &[&str] = &[
    "[ cut here ]",
    "BUG: ",
    "kernel BUG at",
    "Oops: ",
    "general protection fault",
    "is not a head!",
];
/// What it says where it only had to wait for a busy host.
const SLOW: &str = "soft lockup";
/// Lines of a warning that are shown.
const WARNING_LINES: usize = 25;

/// The first warning on a guest's console, and what follows it.
fn warning(console: &str) -> Option<String> {
    let is_one = |line: &str| WARNINGS.iter().any(|word| line.contains(word));
    let mut lines = console.lines();
    let first = lines.position(|line| is_one(line) && !line.contains(SLOW))?;
    let lines: Vec<&str> = console.lines().skip(first).take(WARNING_LINES).collect();
    Some(lines.join("\n"))
}

/// QEMU while it starts: ended unless the start is completed.
pub(crate) struct Starting(pub(crate) Option<Child>);

impl Starting {
    /// The connection that QEMU makes to `socket`.
    pub(crate) fn accept(&mut self, socket: &UnixListener, log: &Path) -> Result<UnixStream> {
        let what = "wait for QEMU to connect";
        socket.set_nonblocking(true).map_err(Error::io(what))?;
        let deadline = Instant::now() + CONNECT_LIMIT;
        while Instant::now() < deadline {
            match socket.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(Error::io(what))?;
                    return Ok(stream);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(Error::io(what)(e)),
            }
            let child = self.0.as_mut().ok_or_else(no_child)?;
            if let Some(status) = child.try_wait().map_err(Error::io(what))? {
                let error = Error::Tool(format!("QEMU did not start: {status}"));
                return Err(with_said(error, &tail_of_file(log)));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(Error::Timeout {
            what: "connection from QEMU".into(),
            after: CONNECT_LIMIT,
        })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

pub(crate) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

pub(crate) fn no_child() -> Error {
    Error::Protocol("QEMU was not started".into())
}

/// Collects a console in the background until it is closed.
fn listen(mut stream: UnixStream) -> (Arc<Mutex<String>>, JoinHandle<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&text);
    let listener = thread::spawn(move || {
        let mut buffer = [0u8; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            let mut text = kept.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    (text, listener)
}

pub(crate) fn with_said(source: Error, said: &str) -> Error {
    Error::Machine {
        source: Box::new(source),
        said: said.into(),
    }
}

pub(crate) fn tail_of_file(path: &Path) -> String {
    tail(&fs::read_to_string(path).unwrap_or_default())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// A new folder for the sockets; short, as a socket's path may have 107 bytes.
pub(crate) fn scratch_dir() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("vbr-guest-{}-{number}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).map_err(Error::io(dir.display().to_string()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn warnings_are_told_from_other_words() {
        let quiet = "random: crng init done\nvbr_founding: loading out-of-tree module\n\
                     worker invoked oom-killer: gfp_mask=0x1\nCall Trace:\n <TASK>\n\
                     watchdog: BUG: soft lockup - CPU#0 stuck for 23s!\n";
        assert_eq!(warning(quiet), None);
        let loud = "a\n------------[ cut here ]------------\nWARNING: CPU: 0 PID: 7 at x.c:1\n";
        let said = warning(loud).unwrap();
        assert!(
            said.starts_with("-----") && said.ends_with("x.c:1"),
            "{said}"
        );
        assert!(warning("BUG: unable to handle page fault\n").is_some());
    }
}
