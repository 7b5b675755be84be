//! Puts load on a homeserver, `bennu serve` with synced writes, and says what it costs: server and load on a core each, every
//! figure beside a floor that was measured in the same run (`benches/README.md`).

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "it is for other benches, too")]
mod support;

mod accounts;
mod backlog;
mod commits;
mod fan_out;
mod federated;
mod floors;
mod idle;
mod messages;
mod overload;
mod process;
mod record;
mod report;
mod server;
mod soak;
mod starts;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::task::JoinSet;

use report::Report;

/// Octets that a member writes in a message.
pub const CONTENT: usize = 1 << 10;

/// A time in microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// How long and how much.
pub struct Bench {
    /// Whether minutes are too long.
    pub quick: bool,
}

impl Bench {
    /// For how long something is measured that takes so many seconds in a full run.
    pub fn time(&self, seconds: u64) -> Duration {
        Duration::from_secs(if self.quick { seconds.div_ceil(4) } else { seconds })
    }
}

/// Measures what a homeserver costs
#[derive(Parser)]
struct Options {
    /// Two minutes, with less of everything
    #[arg(long)]
    quick: bool,
    /// These parts only
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Ten minutes at half of what can be carried, and nothing else
    #[arg(long)]
    soak: bool,
    /// Where to write the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// What `cargo bench` says to all benches
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    floor: Option<Floor>,
}

/// Rows of the table that belong together.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One message
    Messages,
    /// A message to many
    FanOut,
    /// A change of a group
    Commits,
    /// A queue that has filled
    Backlog,
    /// Clients that hear nothing
    Idle,
    /// Registrations and tokens
    Accounts,
    /// Starting again
    Start,
    /// Two homeservers
    Federation,
    /// More than can be carried
    Overload,
}

/// What this program does in processes of its own.
#[derive(Subcommand)]
enum Floor {
    /// Bare QUIC or bare RocksDB
    #[command(subcommand, hide = true)]
    Floor(Bare),
}

#[derive(Subcommand)]
enum Bare {
    /// Answers
    Echo,
    /// Writes
    Committer {
        #[arg(long)]
        recording: PathBuf,
        #[arg(long)]
        data: PathBuf,
        #[arg(long)]
        writers: usize,
        #[arg(long)]
        millis: u64,
    },
}

/// What is done again and again.
#[async_trait]
pub trait Work: Send + 'static {
    /// What came of it.
    type Outcome: Send;

    /// Does it.
    async fn once(&mut self) -> Self::Outcome;
}

/// All of these at work until a time, and what came of it each time.
pub async fn run<W: Work>(workers: Vec<W>, until: Instant) -> (Vec<W>, Vec<W::Outcome>) {
    let mut tasks = JoinSet::new();
    for mut worker in workers {
        tasks.spawn(async move {
            let mut outcomes = Vec::new();
            while Instant::now() < until {
                outcomes.push(worker.once().await);
            }
            (worker, outcomes)
        });
    }
    let (mut workers, mut outcomes) = (Vec::new(), Vec::new());
    for (worker, came) in tasks.join_all().await {
        workers.push(worker);
        outcomes.extend(came);
    }
    (workers, outcomes)
}

fn on_this_core<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn main() {
    let options = Options::parse();
    match options.floor {
        Some(Floor::Floor(Bare::Echo)) => on_this_core(floors::echo::serve()),
        Some(Floor::Floor(Bare::Committer { recording, data, writers, millis })) => {
            floors::committer::write(&recording, &data, writers, Duration::from_millis(millis));
        }
        None => {
            if !process::settle() {
                eprintln!("There is one core only: server and load share it, and the figures say little.");
            }
            let (bench, mut report) = (Bench { quick: options.quick }, Report::default());
            on_this_core(async {
                if options.soak {
                    return soak::measure(&bench, &mut report).await;
                }
                let wanted = |part| options.only.is_empty() || options.only.contains(&part);
                if wanted(Part::Messages) {
                    messages::measure(&bench, &mut report).await;
                }
                if wanted(Part::FanOut) {
                    fan_out::measure(&bench, &mut report).await;
                }
                if wanted(Part::Commits) {
                    commits::measure(&bench, &mut report).await;
                }
                if wanted(Part::Backlog) {
                    backlog::measure(&bench, &mut report).await;
                }
                if wanted(Part::Idle) {
                    idle::measure(&bench, &mut report).await;
                }
                if wanted(Part::Accounts) {
                    accounts::measure(&bench, &mut report).await;
                }
                if wanted(Part::Start) {
                    starts::measure(&bench, &mut report).await;
                }
                if wanted(Part::Federation) {
                    federated::measure(&bench, &mut report).await;
                }
                if wanted(Part::Overload) {
                    overload::measure(&bench, &mut report).await;
                }
            });
            println!("\n{}", report.table());
            if let Some(json) = options.json {
                report.write(&json).expect("it can be written");
                println!("The same is in {}.", json.display());
            }
            if !report.is_met() {
                println!("Not all targets are met.");
            }
        }
    }
}
