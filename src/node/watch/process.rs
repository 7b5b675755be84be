//! What the operating system says of this process, and of the disk that the data is on.

use std::path::Path;

/// What this process uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Memory that is not on disk, in bytes.
    pub memory: u64,
    /// Processor time so far, in seconds.
    pub cpu: f64,
    /// Open files and sockets.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// What it uses now; nothing where the operating system does not say.
    #[cfg(target_os = "linux")]
    pub fn now() -> Self {
        use procfs::process::Process as Proc;
        let Ok(this) = Proc::myself() else { return Self::default() };
        let Ok(stat) = this.stat() else { return Self::default() };
        Self {
            memory: stat.rss * procfs::page_size(),
            cpu: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
            descriptors: this.fd_count().unwrap_or(0) as u64,
            threads: stat.num_threads.unsigned_abs(),
        }
    }

    /// What it uses now; nothing where the operating system does not say.
    #[cfg(not(target_os = "linux"))]
    pub fn now() -> Self {
        Self::default()
    }
}

/// A file system.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Bytes that this user can still write.
    pub free: u64,
    /// All of its bytes.
    pub size: u64,
}

impl Disk {
    /// The one that a directory is on; `None` if that cannot be found out.
    pub fn of(directory: &Path) -> Option<Self> {
        let stat = rustix::fs::statvfs(directory).ok()?;
        Some(Self { free: stat.f_bavail * stat.f_frsize, size: stat.f_blocks * stat.f_frsize })
    }
}
