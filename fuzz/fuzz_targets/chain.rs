//! The target `chain`: `fuzz/src/targets/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bennu_fuzz::targets::run("chain", data));
