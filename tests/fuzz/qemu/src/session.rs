// SPDX-License-Identifier: GPL-2.0-or-later
//! A QEMU without a processor, and all that it was told: a script by which that can be told again.

use std::fs::{self, File};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use guest::lines::Lines;
use serde_json::{Value, json};

/// What is wrong with QEMU.
pub(crate) type Wrong = String;
pub(crate) type Checked<T> = Result<T, Wrong>;

/// QEMU answers at once; on a machine that does other things, too, that takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Processor time that the main loop may take for an answer of the monitor. It is not a time of the
/// clock: other programs do not count.
const MOST_FOR_AN_ANSWER: Duration = Duration::from_secs(1);
/// By these words a sanitizer, an assertion or the library says that something is wrong.
const BAD_WORDS: [&str; 6] = [
    "AddressSanitizer",
    "runtime error:",
    "Assertion",
    "assertion failed",
    "panicked at",
    "bug of its own",
];

/// A running QEMU.
pub(crate) struct Session {
    child: Child,
    dir: PathBuf,
    qtest: Lines,
    monitor: Lines,
    /// The command line, and then a line for each thing that was told.
    pub(crate) script: Vec<String>,
    /// The most processor time that an answer of the monitor took.
    pub(crate) longest: Duration,
    /// Of how many answers that is known.
    measured: usize,
}

impl Session {
    /// Starts `qemu` with these arguments, in which `DIR` stands for a folder of the session's own.
    pub(crate) fn start(qemu: &Path, dir: &Path, arguments: &[String]) -> Checked<Session> {
        fs::create_dir_all(dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
        let sockets = ["qtest", "monitor"].map(|name| {
            let path = dir.join(name);
            let _ = fs::remove_file(&path);
            UnixListener::bind(&path).map_err(|e| format!("bind {}: {e}", path.display()))
        });
        let [qtest, monitor] = sockets;
        let (qtest, monitor) = (qtest?, monitor?);
        let stderr = File::create(dir.join("stderr")).map_err(|e| format!("make a log: {e}"))?;
        let place = dir.display().to_string();
        let mut command = Command::new(qemu);
        command.args(["-nodefaults", "-display", "none", "-accel", "qtest"]);
        command.args(["-qtest-log", "/dev/null", "-L", "/usr/share/qemu"]);
        command.args(["-L", "/usr/share/seabios"]);
        command.arg("-qtest").arg(format!("unix:{place}/qtest"));
        command.arg("-chardev");
        command.arg(format!("socket,id=monitor,path={place}/monitor"));
        command.args(["-mon", "chardev=monitor,mode=control"]);
        command.args(arguments.iter().map(|word| word.replace("DIR", &place)));
        // Leaks at the end of QEMU are QEMU's own.
        command.env("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=0");
        command.env("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let mut child = command.spawn().map_err(|e| format!("start QEMU: {e}"))?;
        let sockets = accept(&qtest, &mut child).and_then(|qtest| {
            let monitor = accept(&monitor, &mut child)?;
            Ok((qtest, monitor))
        });
        let (qtest, monitor) = match sockets {
            Ok(sockets) => sockets,
            Err(wrong) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{wrong}: {}", said(dir)));
            }
        };
        let mut session = Session {
            child,
            dir: dir.into(),
            qtest: Lines::new("test line", qtest),
            monitor: Lines::new("monitor", monitor),
            script: vec![json!(arguments).to_string()],
            longest: Duration::ZERO,
            measured: 0,
        };
        session.next_of_monitor()?;
        session.monitor(&json!({ "execute": "qmp_capabilities" }))?;
        session.script.truncate(1);
        Ok(session)
    }

    /// A folder for files of this session.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sends a command of the test protocol; gives its answer without `OK`.
    pub(crate) fn qtest(&mut self, command: &str) -> Checked<String> {
        self.script.push(format!("q {command}"));
        let sent = self.qtest.send(command);
        sent.map_err(|e| self.explain(&e.to_string()))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.qtest.next(deadline);
            match line.map_err(|e| self.explain(&e.to_string()))? {
                None => return Err(self.explain(&format!("no answer to {command}"))),
                Some(line) if line.starts_with("IRQ") => {}
                Some(line) => return Ok(line.trim_start_matches("OK").trim().into()),
            }
        }
    }

    /// The same for what is answered with a number.
    pub(crate) fn number(&mut self, command: &str) -> Checked<u64> {
        let answer = self.qtest(command)?;
        u64::from_str_radix(answer.trim_start_matches("0x"), 16)
            .map_err(|_| format!("{command}: {answer}"))
    }

    /// Runs a command of the monitor; gives its answer, or `None` where it was refused.
    pub(crate) fn monitor(&mut self, command: &Value) -> Checked<Option<Value>> {
        self.script.push(format!("m {command}"));
        let before = self.main_loop_time();
        let sent = self.monitor.send(&command.to_string());
        sent.map_err(|e| self.explain(&e.to_string()))?;
        let answer = loop {
            let mut message = self.next_of_monitor()?;
            if let Some(answer) = message.get_mut("return") {
                break Some(answer.take());
            }
            if message.get("error").is_some() {
                break None;
            }
        };
        // A QEMU that was told to end may be gone.
        if let (Some(before), Some(after)) = (before, self.main_loop_time()) {
            let took = after.saturating_sub(before);
            self.measured += 1;
            self.longest = self.longest.max(took);
            if took > MOST_FOR_AN_ANSWER {
                return Err(format!("{command} kept the main loop busy for {took:?}"));
            }
        }
        Ok(answer)
    }

    fn next_of_monitor(&mut self) -> Checked<Value> {
        let line = self.monitor.next(Instant::now() + PATIENCE);
        let line = line.map_err(|e| self.explain(&e.to_string()))?;
        let line = line.ok_or_else(|| self.explain("the monitor says nothing"))?;
        serde_json::from_str(&line).map_err(|e| format!("the monitor said {line}: {e}"))
    }

    /// Processor time of the main thread, where the kernel says it.
    fn main_loop_time(&self) -> Option<Duration> {
        let pid = self.child.id();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).ok()?;
        let first = text.split_whitespace().next()?;
        first.parse().ok().map(Duration::from_nanos)
    }

    /// Ends QEMU as an operator does, and looks at how it ended.
    pub(crate) fn end(mut self) -> Checked<()> {
        self.monitor(&json!({ "execute": "quit" }))?;
        if self.measured == 0 {
            return Err("the kernel does not say how long answers took: no schedstat".into());
        }
        let status = self.wait()?;
        if !status.success() {
            return Err(self.explain(&format!("QEMU ended with {status}")));
        }
        sound(&said(&self.dir))
    }

    /// Waits for a QEMU that may end by itself, with an error that it says.
    pub(crate) fn wait(&mut self) -> Checked<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let status = self.child.try_wait();
            if let Some(status) = status.map_err(|e| format!("wait for QEMU: {e}"))? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(self.explain("QEMU does not end"))
    }

    /// What QEMU said, and whether that is bad.
    pub(crate) fn check_words(&self) -> Checked<()> {
        sound(&said(&self.dir))
    }

    fn explain(&mut self, what: &str) -> Wrong {
        // Whoever closed its socket is about to end.
        for _ in 0..200 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let status = self.child.try_wait().ok().flatten();
        let said = said(&self.dir);
        format!("{what}; {status:?}; {said}")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(dir: &Path) -> String {
    fs::read_to_string(dir.join("stderr")).unwrap_or_default()
}

fn sound(said: &str) -> Checked<()> {
    match BAD_WORDS.iter().any(|word| said.contains(word)) {
        true => Err(said.to_owned()),
        false => Ok(()),
    }
}

fn accept(socket: &UnixListener, child: &mut Child) -> Checked<UnixStream> {
    let broken = |e: std::io::Error| format!("wait for QEMU: {e}");
    socket.set_nonblocking(true).map_err(broken)?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok((stream, _)) = socket.accept() {
            stream.set_nonblocking(false).map_err(broken)?;
            return Ok(stream);
        }
        if let Some(status) = child.try_wait().map_err(broken)? {
            return Err(format!("QEMU did not start: {status}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Err("QEMU does not connect".into())
}
