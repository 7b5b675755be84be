//! What is fuzzed, one function a target: any octets in, a panic for whatever must not happen. `fuzz_targets/` hands them
//! to libFuzzer, and `tests/fuzz.rs` of the project replays on them, with a stable toolchain, what they begin with, and
//! whatever was once found.

#[path = "../../../tests/presentation/mod.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod presentation;

mod chain;
mod codec;
mod config;
mod homeserver;
mod input;
mod mls;
mod opening;
pub mod seeds;
mod store;

/// A target.
pub struct Target {
    /// Its name: that of its binary, and of the directory of its corpus.
    pub name: &'static str,
    /// Takes any octets.
    run: fn(&[u8]),
    /// What it begins with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Most octets of the heap that may be in use at once for an input: so many,
    base: usize,
    /// and so many for each of its octets.
    factor: usize,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    // The specification, which is read once, takes most of the first.
    Target { name, run, seeds, base: 128 << 10, factor: 512 }
}

/// All of them.
pub const ALL: &[Target] = &[
    target("request", codec::request, seeds::requests),
    target("response", codec::response, seeds::responses),
    target("body", codec::body, seeds::bodies),
    target("frames", codec::frames, || seeds::of_group("frames")),
    target("credentials", codec::credentials, || seeds::of_group("credentials")),
    target("contents", codec::contents, || seeds::of_group("contents")),
    target("queues", codec::queues, || seeds::of_group("queues")),
    target("federation", codec::federation, || seeds::of_group("federation")),
    target("opening", opening::run, opening::seeds),
    target("chain", chain::run, || seeds::noise(96, 64)),
    target("mls", mls::run, mls::seeds),
    target("config", config::run, config::seeds),
    // These two keep what they were told to, of an input that is a few decisions.
    Target { base: 1 << 20, ..target("store", store::run, || seeds::noise(48, 96)) },
    Target { base: 4 << 20, ..target("homeserver", homeserver::run, || seeds::noise(24, 160)) },
];

impl Target {
    /// Runs it on an input, and sees that it does not take more of the heap than the input is worth.
    pub fn run(&self, data: &[u8]) {
        let most = self.base + self.factor * data.len();
        let used = bytes_in_use(|| (self.run)(data));
        assert!(used <= most, "{used} octets of the heap in use for {} octets of input", data.len());
    }
}

/// Most octets that something has of the heap at a time.
fn bytes_in_use(run: impl FnOnce()) -> usize {
    usize::try_from(allocation_counter::measure(run).bytes_max).unwrap_or(usize::MAX)
}

/// Runs the target of this name.
pub fn run(name: &str, data: &[u8]) {
    let target = ALL.iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("there is no target {name}")).run(data);
}

/// Runs something to its end, on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Reason: without a runtime there is nothing to fuzz.
    runtime.expect("a runtime").block_on(future)
}
