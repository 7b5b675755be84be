//! The `bennu` program.

use std::process::ExitCode;

/// Of RocksDB as well: it takes the place of `malloc`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    bennu::cli::main()
}
