_default:
    @just --list

# Everything that CI checks, in its order.
check:
    .ci/run

# The tests that need nothing but Rust.
test *ARGUMENTS:
    cargo test --locked {{ ARGUMENTS }}

# Seeds of the simulation: `just sim 0..10000` runs a range, `just sim 42` replays one and tells each step.
sim SEEDS:
    {{ if SEEDS =~ '\.\.' { "PINNACE_SIM_SEEDS" } else { "PINNACE_SIM_SEED" } }}={{ SEEDS }} cargo test --locked --test sim -- --nocapture

# Looks for bytes that break what reads them; `--seconds 600 wire` runs one target for longer, `--keep` keeps what is found.
fuzz *ARGUMENTS:
    fuzz/run {{ ARGUMENTS }}

# Real Kubo nodes against a debug build; `--only 'pin-*'` runs some, `--list` names all.
interop *ARGUMENTS:
    cargo build --locked
    tests/interop/run {{ ARGUMENTS }}

# An internet of one machine, with a DHT of real Kubo nodes; needs Linux.
network *ARGUMENTS:
    cargo build --locked
    tests/network/run {{ ARGUMENTS }}

# A pin and its way back, on this machine alone.
demo *ARGUMENTS:
    cargo run --release --locked -- demo {{ ARGUMENTS }}

# Formats the Rust code.
fmt:
    cargo fmt

# How fast the block store is; docs/BENCHMARKS.md says which rows there are.
bench *ARGUMENTS:
    cargo bench --locked --bench store -- {{ ARGUMENTS }}

# How fast the API is with many pins: lists, and pins made and looked at.
bench-api *ARGUMENTS:
    cargo bench --locked --bench api -- {{ ARGUMENTS }}

# The same DAGs in pinnace's store and in Kubo's repositories: room and time.
bench-repositories *ARGUMENTS:
    cargo build --locked --release
    benches/kubo/repositories {{ ARGUMENTS }}

# How fast DAGs come into pinnace and Kubo, and out of them; `--links 50ms` and others for long links.
bench-fetching *ARGUMENTS:
    cargo build --locked --release --bin pinnace --example relay --example drain
    benches/kubo/fetching {{ ARGUMENTS }}

# The life of pins: how fast small ones become pinned, and what many that wait cost.
bench-pins *ARGUMENTS:
    cargo build --locked --release --bin pinnace
    benches/pins {{ ARGUMENTS }}

# Many peers and much data, beside Kubo.
bench-serving *ARGUMENTS:
    cargo build --locked --release --bin pinnace --example relay --example drain --example crowd
    benches/kubo/serving {{ ARGUMENTS }}
