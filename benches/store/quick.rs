//! Operations of microseconds, measured by criterion.

use criterion::{BatchSize, Criterion};

use super::Settings;
use super::tools::{KIB, Random, Scratch, blocks, import, jobs, open};

/// Looking up and reading in a store of 100,000 blocks of 1 KiB and 1,000 of 256 KiB.
pub fn quick(settings: &Settings) {
    let scratch = Scratch::new(&settings.directory, "quick");
    let store = open(&scratch.path("blocks.redb"), settings);
    let small = blocks(0, 100_000, KIB);
    let large = blocks(1 << 40, 1000, 256 * KIB);
    import(&store.writer(), jobs(&small));
    import(&store.writer(), jobs(&large));
    let reader = store.reader();
    let mut criterion = Criterion::default().without_plots();
    let mut random = Random::new(1);
    let mut some = |all: &[pinnace::model::Block]| *all[random.below(all.len())].cid();
    criterion.bench_function("has", |bencher| {
        bencher.iter_batched(|| some(&small), |cid| reader.has(&cid), BatchSize::SmallInput);
    });
    criterion.bench_function("get 1 KiB", |bencher| {
        bencher.iter_batched(|| some(&small), |cid| reader.get(&cid), BatchSize::SmallInput);
    });
    criterion.bench_function("get 256 KiB", |bencher| {
        bencher.iter_batched(|| some(&large), |cid| reader.get(&cid), BatchSize::SmallInput);
    });
    criterion.bench_function("100 sizes in one transaction", |bencher| {
        let cids = || (0..100).map(|_| some(&small)).collect::<Vec<_>>();
        let mut cids = cids;
        bencher.iter_batched(&mut cids, |cids| reader.sizes_many(&cids), BatchSize::SmallInput);
    });
    criterion.final_summary();
}
