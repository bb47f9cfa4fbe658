//! Many pins from origins of which half misbehave: all that can end well do, the others say what they wait for, and memory stays as it is.
//!
//! `PINNACE_SOAK_PINS=10000 PINNACE_SOAK_SECONDS=600 cargo test --test e2e soak -- --nocapture` is the long run.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;
use serde_json::Value;

use crate::support::api::{Api, details};
use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::provider::{Provider, unreachable_origin};
use crate::support::until;

const HONEST: usize = 4;
const ORIGINS: usize = 8;
const PINS: usize = 240;
const SECONDS: u64 = 5;

/// What it may take more in the end than when half of the pins were made: less than its pins have in blocks. The caches, which fill up,
/// are small.
const GROWTH_MAX: u64 = 48 << 20;

/// Shapes in turn: a block, a few, many small ones, a large one, many ways to few.
fn dag(number: usize) -> Dag {
    let name = format!("soak {number}");
    match number % 5 {
        0 => Dag::wide(&name, 0, 0),
        1 => Dag::wide(&name, 4, 2000),
        2 => Dag::wide(&name, 30, 500),
        3 => Dag::wide(&name, 1, 300_000),
        _ => Dag::shared(&name, 3),
    }
}

struct Pin {
    answer: Value,
    /// Whether anybody has all of it.
    can_end: bool,
}

/// Origins in turn: four that are honest, one that gives up soon, one that lies, one that isn't there, and one that comes late.
struct World {
    honest: Vec<Provider>,
    short: Provider,
    liar: Provider,
    late: Option<Provider>,
    gone: String,
}

async fn serve(blocks: HashMap<Cid, Bytes>, allowed: usize) -> Provider {
    let listen = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    Provider::start_as(libp2p::identity::Keypair::generate_ed25519(), listen, blocks, allowed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_can_end_well_do_and_the_others_say_why_they_wait() {
    let pins = std::env::var("PINNACE_SOAK_PINS").map_or(PINS, |text| text.parse().unwrap());
    let seconds = std::env::var("PINNACE_SOAK_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let dags: Vec<Dag> = (0..pins).map(dag).collect();
    let of = |chosen: &dyn Fn(usize) -> bool| -> HashMap<Cid, Bytes> {
        let own = dags.iter().enumerate().filter(|(number, _)| chosen(number % ORIGINS));
        own.flat_map(|(_, dag)| dag.blocks.iter().cloned()).collect()
    };
    let mut honest = Vec::new();
    for place in 0..HONEST {
        // Each has its own, and what one of the others lies about.
        honest.push(serve(of(&|origin| origin == place || (place == 0 && origin == 5)), usize::MAX).await);
    }
    let lies = of(&|origin| origin == 5).into_keys().map(|cid| (cid, Bytes::from(format!("not {cid}")))).collect();
    let late = serve(of(&|origin| origin == 7), 10).await;
    let late_origin = late.origin();
    let mut world = World {
        honest,
        short: serve(of(&|origin| origin == 4), 20).await,
        liar: serve(lies, usize::MAX).await,
        late: Some(late),
        gone: unreachable_origin(pinnace::net::PeerId::random()),
    };

    let home = Home::new();
    let service = home
        .serve()
        .env("PINNACE_PINS__STALL_TIMEOUT", "2s")
        .env("PINNACE_PINS__RETRY_MIN", "1s")
        .env("PINNACE_PINS__RETRY_MAX", "4s")
        .env("PINNACE_STORE__BLOCKS_CACHE", "8MiB")
        .env("PINNACE_STORE__RECORDS_CACHE", "8MiB")
        .start()
        .await;
    let api = service.api();
    let mut made = Vec::new();
    let mut at_half = 0;
    for (number, dag) in dags.iter().enumerate() {
        let (origins, can_end) = match number % ORIGINS {
            place @ 0..HONEST => (vec![world.honest[place].origin()], true),
            4 => (vec![world.short.origin()], false),
            5 => (vec![world.liar.origin(), world.honest[0].origin()], true),
            6 => (vec![world.gone.clone()], false),
            _ => (vec![late_origin.clone()], true),
        };
        made.push(Pin { answer: api.add(&dag.root, &origins).await, can_end });
        if number == pins / 2 {
            at_half = service.memory_peak();
        }
    }
    // The late one goes away in the middle, and comes back with everything.
    let back = world.late.take().unwrap().vanish().await;
    world.late = Some(back(usize::MAX).await);

    let until_then = Instant::now() + Duration::from_secs(seconds);
    for pin in made.iter().filter(|pin| pin.can_end) {
        api.wait_pinned(&pin.answer, seconds + 60).await;
    }
    // The others are tried again and again meanwhile.
    until("the end of the soak", seconds + 1, async || {
        assert_eq!(api.count("failed").await, 0);
        (Instant::now() >= until_then).then_some(())
    })
    .await;
    for pin in &made {
        look_at(&api, pin).await;
    }
    let peak = service.memory_peak();
    let whole = api.count("pinned").await;
    println!("{whole} of {pins} pins ended well; {} MB at most, {} at half", peak >> 20, at_half >> 20);
    assert!(peak <= at_half + GROWTH_MAX, "{peak} bytes at most, {at_half} at half");
    assert!(service.terminate().await.0.success());
}

/// A pin that has ended well, or says what it waits for and for how long.
async fn look_at(api: &Api, pin: &Pin) {
    let now = api.get(&pin.answer).await;
    // One that gives up soon may have had enough for some.
    if now["status"] == "pinned" {
        return;
    }
    assert!(!pin.can_end, "{now}");
    let says = details(&now);
    let waits = says.strip_prefix("waiting; next try in ").and_then(|rest| rest.split(' ').next());
    match waits {
        Some(seconds) => assert!(seconds.parse::<u64>().unwrap() <= 5, "the longest wait is 4 s and a quarter: {now}"),
        None => assert!(
            says.starts_with("fetched ") || says.starts_with("waiting for its turn") || says.starts_with("next in"),
            "{now}"
        ),
    }
}
