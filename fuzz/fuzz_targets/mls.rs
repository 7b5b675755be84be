//! The target `mls`: `fuzz/src/targets/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bennu_fuzz::targets::run("mls", data));
