//! What `fuzz_targets/` runs, and what it begins with.

pub mod targets;
