//! What is fuzzed, one function a target: any octets in, a panic for whatever must not happen. `fuzz_targets/` hands them
//! to libFuzzer, and `tests/fuzz.rs` of the project replays on them, with a stable toolchain, what they begin with, and
//! whatever was once found.

#[path = "../../../tests/presentation/mod.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod presentation;

mod codec;
mod config;
mod homeserver;
mod input;
pub mod seeds;
mod store;

/// A target.
pub struct Target {
    /// Its name: that of its binary, and of the directory of its corpus.
    pub name: &'static str,
    /// Takes any octets.
    pub run: fn(&[u8]),
    /// What it begins with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const ALL: &[Target] = &[
    Target { name: "request", run: codec::request, seeds: seeds::requests },
    Target { name: "response", run: codec::response, seeds: seeds::responses },
    Target { name: "body", run: codec::body, seeds: seeds::bodies },
    Target { name: "frames", run: codec::frames, seeds: || seeds::of_group("frames") },
    Target { name: "credentials", run: codec::credentials, seeds: || seeds::of_group("credentials") },
    Target { name: "contents", run: codec::contents, seeds: || seeds::of_group("contents") },
    Target { name: "queues", run: codec::queues, seeds: || seeds::of_group("queues") },
    Target { name: "federation", run: codec::federation, seeds: || seeds::of_group("federation") },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "store", run: store::run, seeds: || seeds::noise(48, 96) },
    Target { name: "homeserver", run: homeserver::run, seeds: || seeds::noise(24, 160) },
];

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let target = ALL.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("there is no target {name}")).run)(data);
}

/// Runs something to its end, on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Reason: without a runtime there is nothing to fuzz.
    runtime.expect("a runtime").block_on(future)
}
