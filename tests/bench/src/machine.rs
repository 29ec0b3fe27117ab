// SPDX-License-Identifier: GPL-2.0-or-later
//! A machine without a guest: QEMU under its test accelerator, with a balloon that this process
//! drives itself.

use std::fs::{self, File};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest::lines::Lines;
use guest::qmp::Qmp;
use guest::{Error, MIB, Result};

use crate::pci::Pci;
use crate::plan::{Backing, Device};
use crate::qtest::Qtest;
use crate::ring::{Buffer, Queue, Window};
use crate::sys::SmallPages;

/// QEMU connects as soon as it has read its command line.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// Nothing here takes longer but a device that does not answer at all.
const WORK_LIMIT: Duration = Duration::from_secs(120);
/// Where the shared DIMM lies when all RAM is below 4 GiB.
const WINDOW_BASE: u64 = 1 << 32;
/// In a machine with more, this much of it is below 4 GiB, and the rest begins there.
const LOW_RAM: u64 = 3 << 30;
const GAP: u64 = (4 << 30) - LOW_RAM;
/// Where a machine's firmware may be.
pub const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];
/// The balloon's place on the PCI bus.
const SLOT: u32 = 4;
/// Memory is filled by so much at a time: QEMU makes a copy of it.
const FILL_BYTES: u64 = 4 * MIB;
/// Timers of a device that holds work back have run after so much of the machine's time.
const LONGEST_TIMER_NS: u64 = 2_000_000_000;
/// A thread that sleeps and used next to no processor time for so long has nothing left to do.
const QUIET: Duration = Duration::from_millis(20);
/// A turn of the main loop that finds nothing to do takes a third of it.
const NEXT_TO_NONE_NS: u64 = 100_000;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// QEMU's program.
    pub qemu: PathBuf,
    /// The balloon.
    pub device: Device,
    /// What its RAM is made of.
    pub backing: Backing,
    /// RAM in MiB: up to 3 GiB, or whole GiB from 4 on. More than the host has is no fault.
    pub ram_mib: u64,
    /// Size of the memory for requests, in MiB.
    pub window_mib: u64,
}

impl Config {
    /// The guest address of a place in its RAM.
    pub fn address(&self, offset: u64) -> u64 {
        offset + if offset < LOW_RAM { 0 } else { GAP }
    }

    fn is_large(&self) -> bool {
        self.ram_mib * MIB > LOW_RAM
    }

    fn window_base(&self) -> u64 {
        match self.is_large() {
            true => self.address(self.ram_mib * MIB),
            false => WINDOW_BASE,
        }
    }
}

/// The queues that are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueName {
    /// Queue 0.
    Inflate,
    /// Queue 1.
    Deflate,
    /// Queue 3, as QEMU numbers them where there are no hints.
    Report,
}

/// A running machine; it ends when this is dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    dir: PathBuf,
    qtest: Qtest,
    /// Memory for requests.
    pub window: Window,
    queues: Vec<(Queue, u64)>,
}

impl Machine {
    /// Starts QEMU and the balloon's driver. The second part is a connection to the monitor.
    ///
    /// # Errors
    /// When QEMU does not start, with its own words, or the device is not as it should be.
    pub fn start(config: &Config) -> Result<(Machine, Qmp)> {
        let dir = scratch_dir()?;
        let started = launch(config, &dir);
        let ended = started.inspect_err(|_| {
            let _ = fs::remove_dir_all(&dir);
        });
        let (mut machine, qmp) = ended?;
        machine.start_device(config.device)?;
        Ok((machine, qmp))
    }

    fn start_device(&mut self, device: Device) -> Result<()> {
        let pci = Pci::new(&mut self.qtest, SLOT)?;
        pci.negotiate(&mut self.qtest, device.features())?;
        let sizes = [(0, 128), (1, 128), (3, 32)];
        let count = if device.can_report() { 3 } else { 2 };
        for (index, size) in sizes.into_iter().take(count) {
            let queue = Queue::new(&mut self.window, size)?;
            let notify = pci.start_queue(&mut self.qtest, index, &queue.place)?;
            self.queues.push((queue, notify));
        }
        pci.start(&mut self.qtest)?;
        // When a driver is ready QEMU looks at all queues once, without being notified. That is
        // over before there is anything to find.
        self.wait_idle()
    }

    /// The number of QEMU's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to every page of a piece of guest memory.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn fill(&mut self, address: u64, bytes: u64) -> Result<()> {
        for at in (address..address + bytes).step_by(FILL_BYTES as usize) {
            let size = FILL_BYTES.min(address + bytes - at);
            self.qtest.call(&format!("memset {at:#x} {size:#x} 0x5a"))?;
        }
        Ok(())
    }

    /// Puts requests into a queue; the device is not notified yet.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn put(&mut self, queue: QueueName, requests: &[Vec<Buffer>]) -> Result<()> {
        let (queue, _) = &mut self.queues[queue as usize];
        queue.put(&self.window, requests)
    }

    /// The same with descriptors in tables of their own.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn put_indirect(
        &mut self,
        queue: QueueName,
        requests: &[(u64, Vec<Buffer>)],
    ) -> Result<()> {
        let (queue, _) = &mut self.queues[queue as usize];
        queue.put_indirect(&self.window, requests)
    }

    /// Notifies the device and waits until all is answered; gives how long that took.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn kick(&mut self, queue: QueueName) -> Result<Duration> {
        let begun = Instant::now();
        self.notify(queue)?;
        self.wait_answered(queue)?;
        let took = begun.elapsed();
        self.qtest.answer()?;
        Ok(took)
    }

    /// Notifies the device, and waits for nothing.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn notify(&mut self, queue: QueueName) -> Result<()> {
        let (_, notify) = &self.queues[queue as usize];
        let command = format!("writew {notify:#x} {:#x}", queue.number());
        self.qtest.send(&command)
    }

    /// Waits until all of a queue is answered.
    ///
    /// # Errors
    /// When that takes too long.
    fn wait_answered(&mut self, queue: QueueName) -> Result<()> {
        let (queue, _) = &self.queues[queue as usize];
        let deadline = Instant::now() + WORK_LIMIT;
        while !queue.is_answered(&self.window)? {
            if Instant::now() > deadline {
                let what = "answer of the balloon".into();
                let after = WORK_LIMIT;
                return Err(Error::Timeout { what, after });
            }
        }
        Ok(())
    }

    /// Whether all of a queue is answered.
    ///
    /// # Errors
    /// When the window cannot be read.
    pub fn is_answered(&self, queue: QueueName) -> Result<bool> {
        self.queues[queue as usize].0.is_answered(&self.window)
    }

    /// Lets the machine's time go on until no timer is left, and waits until QEMU is idle.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn settle(&mut self) -> Result<()> {
        self.qtest.call(&format!("clock_step {LONGEST_TIMER_NS}"))?;
        self.wait_idle()
    }

    /// Waits until QEMU's main thread sleeps.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn wait_idle(&mut self) -> Result<()> {
        let mut last = self.cpu_ns()?;
        loop {
            thread::sleep(QUIET);
            let now = self.cpu_ns()?;
            if now - last < NEXT_TO_NONE_NS && self.sleeps()? {
                return Ok(());
            }
            last = now;
        }
    }

    fn sleeps(&self) -> Result<bool> {
        let path = format!("/proc/{}/stat", self.pid());
        let text = fs::read_to_string(&path).map_err(Error::io(path))?;
        let state = text.rsplit_once(") ").map(|(_, rest)| rest);
        Ok(state.is_some_and(|rest| rest.starts_with('S')))
    }

    /// Processor time of the main thread so far; exact while it sleeps.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn cpu_ns(&self) -> Result<u64> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/schedstat");
        let text = fs::read_to_string(&path).map_err(Error::io(path))?;
        let first = text.split_whitespace().next();
        first
            .and_then(|ns| ns.parse().ok())
            .ok_or_else(|| Error::Missing("this kernel has no schedstat".into()))
    }
}

impl QueueName {
    fn number(self) -> u16 {
        match self {
            QueueName::Inflate => 0,
            QueueName::Deflate => 1,
            QueueName::Report => 3,
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.child);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn launch(config: &Config, dir: &Path) -> Result<(Machine, Qmp)> {
    let bind = |name: &str| {
        let path = dir.join(name);
        UnixListener::bind(&path).map_err(Error::io(path.display().to_string()))
    };
    let (qtest, monitor) = (bind("qtest")?, bind("monitor")?);
    let window = Path::new("/dev/shm").join(dir.file_name().unwrap_or_default());
    let file = window_file(&window, config.window_mib * MIB)?;
    let log = dir.join("stderr");
    let stderr = File::create(&log).map_err(Error::io("make QEMU's log"))?;
    let small = match config.backing {
        Backing::Small => Some(SmallPages::for_children().map_err(Error::io("turn THP off"))?),
        _ => None,
    };
    let child = Command::new(&config.qemu)
        .args(arguments(config, dir, &window))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn();
    drop(small);
    let mut child = child.map_err(Error::io(format!("start {}", config.qemu.display())))?;
    let connect = |child: &mut Child| {
        let qtest = Qtest::new(accept(&qtest, child)?)?;
        Ok((
            qtest,
            Qmp::new(Lines::new("monitor", accept(&monitor, child)?))?,
        ))
    };
    let connected = connect(&mut child);
    let _ = fs::remove_file(&window);
    let (qtest, qmp) = connected.map_err(|source: Error| {
        end(&mut child);
        let said = fs::read_to_string(&log).unwrap_or_default();
        Error::Machine {
            source: Box::new(source),
            said,
        }
    })?;
    let machine = Machine {
        child,
        dir: dir.into(),
        qtest,
        window: Window::new(file, config.window_base(), config.window_mib * MIB),
        queues: Vec::new(),
    };
    Ok((machine, qmp))
}

fn arguments(config: &Config, dir: &Path, window: &Path) -> Vec<String> {
    let Config {
        device,
        backing,
        ram_mib,
        window_mib,
        ..
    } = config;
    let mut args: Vec<String> = vec!["-nodefaults".into()];
    let mut add = |name: &str, value: &str| args.extend([name.to_string(), value.to_string()]);
    add("-display", "none");
    add("-accel", "qtest");
    add("-qtest", &format!("unix:{}", dir.join("qtest").display()));
    add("-qtest-log", "/dev/null");
    for firmware in FIRMWARE {
        add("-L", firmware);
    }
    let monitor = dir.join("monitor");
    let socket = format!("socket,id=monitor,path={}", monitor.display());
    add("-chardev", &socket);
    add("-mon", "chardev=monitor,mode=control");
    let backend = match backing {
        Backing::Small | Backing::Thp if config.is_large() => Some("ram,reserve=off"),
        Backing::Small | Backing::Thp => None,
        Backing::Memfd => Some("memfd,share=on"),
        Backing::Hugetlb => Some("memfd,share=on,hugetlb=on,hugetlbsize=2M"),
    };
    if config.is_large() {
        // As many address bits as 1 TiB and more takes; and AMD's processors have a hole there.
        add("-cpu", "qemu64,vendor=GenuineIntel,phys-bits=46");
    }
    // As the machine's clock stands still, QEMU would wake up again and again for a timer.
    let machine = "pc,pit=off,hpet=off";
    match backend {
        None => add("-machine", machine),
        Some(kind) => {
            let ram = format!("memory-backend-{kind},id=ram0,size={ram_mib}M");
            add("-object", &ram);
            add("-machine", &format!("{machine},memory-backend=ram0"));
        }
    }
    let most = ram_mib + window_mib;
    add("-m", &format!("{ram_mib}M,slots=1,maxmem={most}M"));
    let path = window.display();
    let shared =
        format!("memory-backend-file,id=window,share=on,mem-path={path},size={window_mib}M");
    add("-object", &shared);
    add(
        "-device",
        &format!("pc-dimm,memdev=window,addr={:#x}", config.window_base()),
    );
    add(
        "-device",
        &format!("{},id=balloon0,addr={SLOT}", device.argument()),
    );
    args
}

fn window_file(path: &Path, bytes: u64) -> Result<File> {
    let mut options = File::options();
    let opened = options.read(true).write(true).create_new(true).open(path);
    let file = opened.map_err(Error::io(path.display().to_string()))?;
    file.set_len(bytes)
        .map_err(Error::io("make the shared DIMM"))?;
    Ok(file)
}

fn accept(socket: &UnixListener, child: &mut Child) -> Result<UnixStream> {
    let what = "wait for QEMU to connect";
    socket.set_nonblocking(true).map_err(Error::io(what))?;
    let deadline = Instant::now() + CONNECT_LIMIT;
    while Instant::now() < deadline {
        if let Ok((stream, _)) = socket.accept() {
            stream.set_nonblocking(false).map_err(Error::io(what))?;
            return Ok(stream);
        }
        if let Some(status) = child.try_wait().map_err(Error::io(what))? {
            return Err(Error::Tool(format!("QEMU did not start: {status}")));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Err(Error::Timeout {
        what: "connection from QEMU".into(),
        after: CONNECT_LIMIT,
    })
}

/// A new folder for the sockets; short, as a socket's path may have 107 bytes.
pub(crate) fn scratch_dir() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("vbr-bench-{}-{number}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).map_err(Error::io(dir.display().to_string()))?;
    Ok(dir)
}
