//! How many instructions the hot paths take: counted by valgrind, which noise does not reach (`make bench-instructions`).

#[path = "hot/paths.rs"]
mod paths;
#[allow(dead_code, reason = "other benches need more of it")]
mod support;

use std::hint::black_box;

use gungraun::{Callgrind, prelude::*};
use paths::*;

/// Times that something is done before it is counted, so that what happens once only has happened.
const BEFORE: usize = 20;

/// The input of what is counted.
fn input<P: Path>() -> P::Input {
    let mut next = P::start();
    for _ in 0..BEFORE {
        black_box(P::run(&mut next()));
    }
    next()
}

macro_rules! count_each {
    ($($name:ident: $path:ty,)*) => {
        $(
            // What it is given is given back: dropping it is not counted.
            #[library_benchmark]
            #[bench::once(setup = input::<$path>)]
            fn $name(mut input: <$path as Path>::Input) -> (<$path as Path>::Input, <$path as Path>::Output) {
                let output = black_box(<$path as Path>::run(black_box(&mut input)));
                (input, output)
            }
        )*
        library_benchmark_group!(name = hot, benchmarks = [$($name),*]);
    };
}
each_path!(count_each);

main!(
    // What a processor's caches would do with them is a guess.
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = hot
);
