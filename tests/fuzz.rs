//! Replays on every fuzz target what it begins with, what was once found, and a few thousand changed copies of both: with a
//! stable toolchain, in seconds. `make fuzz` looks for more.

#![cfg(feature = "server")]

use std::{fs, panic, path::Path};

#[path = "../fuzz/src/targets/mod.rs"]
#[allow(dead_code, reason = "the look-up by name is for libFuzzer")]
mod targets;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use targets::{ALL, Target};

/// Changed copies of each seed.
const CHANGED: usize = 100;

/// What was found, by target: `fuzz/regressions/<target>/`.
fn regressions(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(target.name);
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// One to four of: an octet set, a bit flipped, octets taken out, doubled, or cut off.
fn changed(seed: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut octets = seed.to_vec();
    for _ in 0..=rng.next_u32() % 4 {
        let at = rng.next_u32() as usize % (octets.len() + 1);
        let length = (rng.next_u32() as usize % 9).min(octets.len() - at);
        match rng.next_u32() % 5 {
            0 if at < octets.len() => octets[at] = rng.next_u32() as u8,
            1 if at < octets.len() => octets[at] ^= 1 << (rng.next_u32() % 8),
            2 => drop(octets.drain(at..at + length)),
            3 => {
                let doubled = octets[at..at + length].to_vec();
                octets.splice(at..at, doubled);
            }
            _ => octets.truncate(at),
        }
    }
    octets
}

/// Runs a target, and says on what if that fails.
fn run(target: &Target, octets: &[u8]) {
    let outcome = panic::catch_unwind(|| target.run(octets));
    if let Err(panic) = outcome {
        let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        println!("{} fails on {hex}", target.name);
        panic::resume_unwind(panic);
    }
}

fn replay(target: &Target) {
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} begins with nothing", target.name);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for seed in seeds.into_iter().chain(regressions(target)) {
        run(target, &seed);
        for _ in 0..CHANGED {
            run(target, &changed(&seed, &mut rng));
        }
    }
}

#[test]
fn every_target_holds_on_its_seeds_and_on_what_was_found() {
    ALL.iter().for_each(replay);
}

/// Where libFuzzer looks for it, if there is to be fuzzed: `BENNU_FUZZ_CORPUS` is the directory.
#[test]
fn seeds_and_dictionary_are_written_where_they_are_wanted() {
    let scratch = tempfile::tempdir().unwrap();
    let wanted = std::env::var_os("BENNU_FUZZ_CORPUS").map(|path| Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let corpus = wanted.unwrap_or_else(|| scratch.path().to_owned());
    for target in ALL {
        let (directory, seeds) = (corpus.join(target.name), (target.seeds)());
        fs::create_dir_all(&directory).unwrap();
        for (at, seed) in seeds.iter().chain(&regressions(target)).enumerate() {
            fs::write(directory.join(format!("seed-{at:04}")), seed).unwrap();
        }
        assert!(fs::read_dir(&directory).unwrap().count() >= seeds.len(), "{}", target.name);
    }
    fs::write(corpus.join("wire.dict"), targets::seeds::dictionary()).unwrap();
}

#[test]
fn every_target_has_a_binary_and_is_run_by_make_fuzz() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let (manifest, makefile) = (read("fuzz/Cargo.toml"), read("Makefile"));
    let listed = makefile.lines().find_map(|line| line.strip_prefix("FUZZ_TARGETS := ")).unwrap();
    let names: Vec<_> = ALL.iter().map(|target| target.name).collect();
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), names);
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} in fuzz/Cargo.toml");
        assert!(read(&format!("fuzz/fuzz_targets/{name}.rs")).contains(&format!("run(\"{name}\", data)")), "{name}");
    }
}
