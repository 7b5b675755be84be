//! Whether the machine is up to it: buffers, clock, disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use super::Finding;
use crate::{
    node::{Config, watch::Disk},
    transport::SOCKET_BUFFER,
};

/// Synced writes that are timed.
const WRITES: usize = 20;

/// A synced write that takes longer makes everybody wait.
const SLOW: Duration = Duration::from_millis(20);

/// This program was not there before: 1 November 2026.
const EPOCH: Duration = Duration::from_secs(1_793_491_200);

pub fn look(config: &Config) -> Vec<Finding> {
    let directory = existing(&config.data);
    let mut findings = vec![buffers(), clock()];
    findings.extend(directory.map(|directory| disk(config, directory)));
    findings.extend(directory.map(syncs));
    findings
}

/// The directory, or the nearest one above that is there.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors()
        .map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path })
        .find(|path| path.is_dir())
}

fn buffers() -> Finding {
    const SUBJECT: &str = "UDP buffers";
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok()?;
        text.trim().parse::<usize>().ok()
    };
    let (Some(receive), Some(send)) = (read("rmem_max"), read("wmem_max")) else {
        return Finding::ok(SUBJECT, "this system does not say how large they may be");
    };
    if receive < SOCKET_BUFFER || send < SOCKET_BUFFER {
        return Finding::warning(
            SUBJECT,
            format!("the system allows {receive} bytes for receiving and {send} for sending: bursts are lost"),
            format!(
                "sysctl -w net.core.rmem_max={SOCKET_BUFFER} net.core.wmem_max={SOCKET_BUFFER}, and the same in \
                 /etc/sysctl.d/bennu.conf; then restart the homeserver"
            ),
        );
    }
    Finding::ok(SUBJECT, format!("up to {receive} bytes for receiving, {send} for sending"))
}

fn clock() -> Finding {
    const SUBJECT: &str = "clock";
    let advice =
        "set the clock, and keep it set with systemd-timesyncd, chrony or ntpd: credentials and certificates go by it";
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if now < EPOCH {
        return Finding::failure(SUBJECT, "it shows a time before this program was written", advice);
    }
    let said = Command::new("timedatectl").args(["show", "-p", "NTPSynchronized", "--value"]).output();
    match said.ok().filter(|said| said.status.success()).map(|said| said.stdout.starts_with(b"yes")) {
        Some(true) => Finding::ok(SUBJECT, "it is kept set over the network"),
        Some(false) => Finding::warning(SUBJECT, "nothing keeps it set over the network", advice),
        None => Finding::ok(SUBJECT, "it shows a time that can be; whether anything keeps it set is not known here"),
    }
}

fn disk(config: &Config, directory: &Path) -> Finding {
    const SUBJECT: &str = "disk";
    let Some(Disk { free, size }) = Disk::of(directory) else {
        return Finding::warning(SUBJECT, "how much is free cannot be found out", "look with `df`");
    };
    let found = format!("{} of {} MiB are free", free >> 20, size >> 20);
    let reserve = config.limits.disk_reserve;
    if free < reserve {
        let advice = format!("make room, or lower limits.disk_reserve ({} MiB)", reserve >> 20);
        return Finding::failure(SUBJECT, format!("{found}: less than the reserve"), advice);
    }
    if free < reserve.saturating_mul(4) {
        return Finding::warning(
            SUBJECT,
            found,
            "make room before it is needed: queues fill while clients are offline",
        );
    }
    Finding::ok(SUBJECT, found)
}

/// Times synced writes as the database makes them.
fn syncs(directory: &Path) -> Finding {
    const SUBJECT: &str = "synced writes";
    match time_syncs(directory) {
        Ok(median) if median > SLOW => Finding::warning(
            SUBJECT,
            format!("one takes {:.1} ms", median.as_secs_f64() * 1e3),
            "every message waits for one: use a local SSD, not a network disk or a memory card",
        ),
        Ok(median) => Finding::ok(SUBJECT, format!("one takes {:.1} ms", median.as_secs_f64() * 1e3)),
        Err(error) => Finding::failure(
            SUBJECT,
            format!("{} cannot be written: {error}", directory.display()),
            "run this as the user that runs the homeserver, and see whether the disk is full or mounted read-only",
        ),
    }
}

/// The median.
fn time_syncs(directory: &Path) -> io::Result<Duration> {
    let path = directory.join(format!(".bennu-check-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    // It goes whatever happens to the writes.
    let times = write_synced(&mut file);
    fs::remove_file(&path)?;
    let mut times = times?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

fn write_synced(file: &mut File) -> io::Result<Vec<Duration>> {
    let block = [0x62; 4_096];
    let one = |_| {
        let started = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        Ok(started.elapsed())
    };
    (0..WRITES).map(one).collect()
}
