//! Rows about bulk writing: how large the file becomes, and how fast.

use super::Settings;
use super::tools::{
    KIB, MIB, Scratch, block, blocks, cpu_seconds, disk_bytes, import, jobs, median, median_ratio, open, seconds,
    write_flat,
};

/// File size over payload.
pub fn size(settings: &Settings) {
    for (name, length, count) in [("256 KiB", 256 * KIB, 4096), ("1 MiB", MIB, 1024), ("1 KiB", KIB, 1_000_000_u64)] {
        let scratch = Scratch::new(&settings.directory, "size");
        let path = scratch.path("blocks.redb");
        let store = open(&path, settings);
        let per_job = (256 * KIB / length).max(1) as u64;
        let all = (0..count.div_ceil(per_job))
            .map(|job| (job * per_job..((job + 1) * per_job).min(count)).map(|number| block(number, length)).collect());
        import(&store.writer(), all);
        store.close();
        let payload = count * length as u64;
        println!("size {name}: {count} blocks take {:.4} x payload", disk_bytes(&path) as f64 / payload as f64);
    }
}

/// 1 GiB of 256 KiB blocks against `write` + `fdatasync` of the same bytes in groups of 16 MiB.
pub fn large(settings: &Settings) {
    let all = blocks(0, 4096, 256 * KIB);
    let (mut store_speeds, mut flat_speeds) = (Vec::new(), Vec::new());
    for round in 0..settings.rounds {
        let scratch = Scratch::new(&settings.directory, "large");
        let flat = || 1024.0 / seconds(|| write_flat(&scratch.path("flat"), &all, 16 * MIB));
        let packed = || {
            let store = open(&scratch.path("blocks.redb"), settings);
            1024.0 / seconds(|| import(&store.writer(), jobs(&all)))
        };
        // Who goes first takes turns too.
        let (flat, packed) = if round % 2 == 0 {
            let flat = flat();
            (flat, packed())
        } else {
            let packed = packed();
            (flat(), packed)
        };
        println!("large round {round}: store {packed:.0} MiB/s, flat {flat:.0} MiB/s, {:.2}", packed / flat);
        store_speeds.push(packed);
        flat_speeds.push(flat);
    }
    println!(
        "large: store {:.0} MiB/s, flat {:.0} MiB/s, ratio {:.2}",
        median(&store_speeds),
        median(&flat_speeds),
        median_ratio(&store_speeds, &flat_speeds)
    );
}

/// The first million blocks of 1 KiB.
pub fn small(settings: &Settings) {
    let all = blocks(0, 1_000_000, KIB);
    let mut rates = Vec::new();
    for round in 0..settings.rounds {
        let scratch = Scratch::new(&settings.directory, "small");
        let store = open(&scratch.path("blocks.redb"), settings);
        let mut parts = Vec::new();
        let cpu = cpu_seconds();
        let taken = seconds(|| {
            for quarter in all.chunks(250_000) {
                parts.push(seconds(|| import(&store.writer(), jobs(quarter))));
            }
        });
        let parts: Vec<String> = parts.iter().map(|part| format!("{:.0}", 250_000.0 / part)).collect();
        let (rate, parts, cpu) = (1e6 / taken, parts.join(", "), cpu_seconds() - cpu);
        println!("small round {round}: {rate:.0} blocks/s (quarters: {parts}), {cpu:.2} µs of CPU each");
        rates.push(1e6 / taken);
    }
    println!("small: {:.0} blocks/s", median(&rates));
}
