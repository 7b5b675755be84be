//! Bare RocksDB: one thread takes all that is waiting and writes it in one synced batch, with the rows that a message makes a
//! homeserver write.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bennu::store::{Change, Engine as _, Key, Operation, RocksEngine, RocksOptions, Table};
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinSet};

use crate::process::Process;

/// What is written for something, again and again.
#[derive(Serialize, Deserialize)]
pub struct Recording(pub Vec<Vec<Write>>);

/// An operation, without what it writes.
#[derive(Clone, Serialize, Deserialize)]
pub struct Write {
    table: usize,
    key: Vec<u8>,
    change: What,
}

#[derive(Clone, Serialize, Deserialize)]
enum What {
    Put(usize),
    Delete,
    DeleteTo(Vec<u8>),
}

impl Write {
    /// What is to be repeated.
    pub fn like(operation: &Operation) -> Self {
        let change = match &operation.change {
            Change::Put(value) => What::Put(value.len()),
            Change::Delete => What::Delete,
            Change::DeleteTo(end) => What::DeleteTo(end.as_bytes().to_vec()),
        };
        let table = Table::ALL.iter().position(|table| *table == operation.table).expect("a table");
        Self { table, key: operation.key.as_bytes().to_vec(), change }
    }

    /// The same for another writer, whose rows are its own.
    fn of(&self, writer: u64, filling: &[u8]) -> Operation {
        let key = |key: &[u8]| Key::new().u64(writer).bytes(key);
        let change = match &self.change {
            What::Put(length) => Change::Put(filling[..*length].to_vec().into()),
            What::Delete => Change::Delete,
            What::DeleteTo(end) => Change::DeleteTo(key(end)),
        };
        Operation { table: Table::ALL[self.table], key: key(&self.key), change }
    }
}

/// What bare RocksDB needs for one of the things that were recorded.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    pub cpu: Duration,
    /// In a second.
    pub writes: f64,
    /// From when it is handed over until it is durable.
    pub mean: Duration,
}

/// Writes what was recorded, with so many writers that wait for each of theirs.
pub fn measure(recording: &Recording, writers: usize, time: Duration) -> Floor {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("recording");
    fs::write(&file, postcard::to_stdvec(recording).expect("it encodes")).expect("it can be written");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["floor", "committer", "--writers", &writers.to_string(), "--millis", &time.as_millis().to_string()]);
    let process = Process::start(command.arg("--recording").arg(&file).arg("--data").arg(directory.path()));
    let figure = |at: usize| process.ready[process.ready.len() - at].parse::<f64>().expect("a number");
    let (count, cpu, elapsed) = (figure(3), figure(2), figure(1));
    process.wait();
    Floor {
        cpu: Duration::from_secs_f64(cpu / count),
        writes: count / elapsed,
        mean: Duration::from_secs_f64(elapsed * writers as f64 / count),
    }
}

/// A submission, and who waits for it.
type Submission = (Vec<Operation>, oneshot::Sender<()>);

/// Writes for so long, and prints how many, in how many seconds of the processor's and of the clock's.
pub fn write(recording: &Path, data: &Path, writers: usize, time: Duration) {
    let recording = fs::read(recording).expect("the recording");
    let Recording(recorded) = postcard::from_bytes(&recording).expect("a recording");
    let settings = RocksOptions { create: true, ..RocksOptions::default() };
    let engine = RocksEngine::open(data.join("data"), &settings).expect("a database");
    let (submit, submissions) = mpsc::channel::<Submission>();
    let committer = thread::spawn(move || {
        while let Ok((mut operations, waiter)) = submissions.recv() {
            let mut waiters = vec![waiter];
            while let Ok((more, waiter)) = submissions.try_recv() {
                operations.extend(more);
                waiters.push(waiter);
            }
            engine.write(&operations).expect("it is written");
            // Nobody is left to be told at the end.
            waiters.into_iter().for_each(|waiter| _ = waiter.send(()));
        }
        engine.close().expect("it closes");
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let recorded = Arc::new(recorded);
    let longest = recorded.iter().flatten().map(|write| if let What::Put(length) = write.change { length } else { 0 });
    let filling: Arc<[u8]> = (0..longest.max().unwrap_or(0)).map(|at| (at * 31 + at / 256) as u8).collect();
    runtime.block_on(async {
        run(&recorded, &filling, &submit, writers, time / 4).await;
        let me = procfs::process::Process::myself().expect("this process");
        let cpu = || {
            let stat = me.stat().expect("this process");
            (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
        };
        let (before, started) = (cpu(), Instant::now());
        let count = run(&recorded, &filling, &submit, writers, time).await;
        println!("ready on 127.0.0.1:0 {count} {} {}", cpu() - before, started.elapsed().as_secs_f64());
    });
    drop(submit);
    committer.join().expect("it ends");
}

async fn run(
    recorded: &Arc<Vec<Vec<Write>>>,
    filling: &Arc<[u8]>,
    submit: &mpsc::Sender<Submission>,
    writers: usize,
    time: Duration,
) -> u64 {
    let (mut tasks, until) = (JoinSet::new(), Instant::now() + time);
    for writer in 0..writers as u64 {
        let (recorded, filling, submit) = (recorded.clone(), filling.clone(), submit.clone());
        tasks.spawn(async move {
            let mut count = 0;
            for writes in recorded.iter().cycle() {
                if Instant::now() >= until {
                    break;
                }
                let operations = writes.iter().map(|write| write.of(writer, &filling)).collect();
                let (waiter, durable) = oneshot::channel();
                submit.send((operations, waiter)).expect("it takes what is written");
                durable.await.expect("it is written");
                count += 1;
            }
            count
        });
    }
    tasks.join_all().await.into_iter().sum()
}
