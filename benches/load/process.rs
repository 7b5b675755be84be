//! Processes on a core of their own, and what the kernel says that they have used.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// The cores that there are: the first is for whoever is measured, the second for whoever makes it work.
static CORES: OnceLock<(usize, usize)> = OnceLock::new();

fn cores() -> (usize, usize) {
    *CORES.get_or_init(|| {
        let allowed = sched_getaffinity(None).expect("the kernel says on which cores this runs");
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let first = cores.next().expect("it runs on a core");
        (first, cores.next().unwrap_or(first))
    })
}

fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).expect("the core is there");
}

/// Puts this thread, and those that it starts, on the core of whoever makes others work; whether there is one for each.
pub fn settle() -> bool {
    let (measured, own) = cores();
    pin(own);
    measured != own
}

/// Processor time that this thread has used.
pub fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it is not negative")
}

/// Another process, on the core of whoever is measured. It is killed when this is dropped.
pub struct Process {
    child: Child,
    /// What it printed when it was ready, in words.
    pub ready: Vec<String>,
}

impl Process {
    /// Starts a program that prints a line with `ready on ADDRESS` in it.
    pub fn start(command: &mut Command) -> Self {
        let (measured, own) = cores();
        pin(measured);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        pin(own);
        let mut child = child.expect("the program can be started");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it prints a line");
        assert!(line.contains("ready on "), "it is not ready: {line}");
        Self { child, ready: line.split_whitespace().map(str::to_owned).collect() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        let at = self.ready.iter().position(|word| word == "on").expect("it says where");
        self.ready[at + 1].parse().expect("an address")
    }

    fn stat(&self) -> procfs::process::Stat {
        let id = i32::try_from(self.child.id()).expect("a process id");
        procfs::process::Process::new(id).and_then(|process| process.stat()).expect("it runs")
    }

    /// Processor time that all its threads have used, in steps of a hundredth of a second.
    pub fn cpu(&self) -> Duration {
        let stat = self.stat();
        Duration::from_secs_f64((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
    }

    /// Octets of memory that are its own at the moment.
    pub fn memory(&self) -> u64 {
        self.stat().rss * procfs::page_size()
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) {
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "it ended with {status}");
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, Signal::TERM).expect("it runs");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "it ended with {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone after `stop`; otherwise something has failed, and it has nothing to tidy up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
