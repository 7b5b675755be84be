//! How long the hot paths take (`cargo bench --bench hot`, or `make bench-micro`).

#[path = "hot/paths.rs"]
mod paths;
#[allow(dead_code, reason = "other benches need more of it")]
mod support;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

fn measure<P: paths::Path>(name: &str, criterion: &mut Criterion) {
    let mut next = P::start();
    criterion.bench_function(name, |bencher| bencher.iter_batched_ref(&mut next, P::run, BatchSize::SmallInput));
}

macro_rules! measure_each {
    ($($name:ident: $path:ty,)*) => {
        fn hot(criterion: &mut Criterion) {
            use paths::*;
            $(measure::<$path>(stringify!($name), criterion);)*
        }
    };
}
paths::each_path!(measure_each);

criterion_group!(all, hot);
criterion_main!(all);
