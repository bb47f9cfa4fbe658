//! What goes over the network is bounded where the configuration says so, and counted.

use std::time::{Duration, Instant};

use crate::support::daemon::{Daemon, Home};
use crate::support::dag::Dag;
use crate::support::provider::Provider;

/// What the figures say of bytes with peers, by their labels.
pub async fn transferred(service: &Daemon, direction: &str, transport: &str, protocol: &str) -> u64 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = service.ready.metrics.as_deref().unwrap();
    let text = client.get(url).send().await.unwrap().error_for_status().unwrap().text().await.unwrap();
    let labels = format!("direction=\"{direction}\",transport=\"{transport}\",protocol=\"{protocol}\"");
    let name = format!("pinnace_network_bytes_total{{{labels}}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |bytes| bytes.parse().unwrap())
}

/// Pins from a service what it has, and returns how long that took.
async fn pin_from_another(dag: &Dag, transport: &str, upload: &str, download: &str) -> Duration {
    let (first_home, second_home) = (Home::new(), Home::new());
    let metrics = ("PINNACE_METRICS__LISTEN", "127.0.0.1:0");
    let first = first_home.serve().env(metrics.0, metrics.1).env("PINNACE_NETWORK__UPLOAD_MAX", upload);
    let second = second_home.serve().env(metrics.0, metrics.1).env("PINNACE_NETWORK__DOWNLOAD_MAX", download);
    let (first, second) = (first.start().await, second.start().await);
    let provider = Provider::start(dag).await;
    let pin = first.api().add(&dag.root, &[provider.origin()]).await;
    first.api().wait_pinned(&pin, 20).await;

    let started = Instant::now();
    let origin = first.ready.multiaddr(transport);
    let pin = second.api().add(&dag.root, &[origin]).await;
    second.api().wait_pinned(&pin, 60).await;
    let took = started.elapsed();

    let bytes: usize = dag.blocks.iter().map(|(_, data)| data.len()).sum();
    let (enough, too_much) = (bytes as u64, bytes as u64 * 5 / 4);
    let carrier = if transport.contains("quic") { "quic" } else { "tcp" };
    for (service, direction) in [(&first, "upload"), (&second, "download")] {
        let count = transferred(service, direction, carrier, "bitswap").await;
        assert!((enough..too_much).contains(&count), "{count} bytes of {bytes} {direction} over {carrier}");
        assert!(transferred(service, direction, carrier, "negotiation").await > 0);
        assert!(transferred(service, direction, carrier, "identify").await > 0);
    }
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_and_what_is_read_keeps_to_its_bound() {
    let dag = Dag::wide("bounded", 24, 250_000);
    // Of 6 MB 5 % of a second's are sent at once, and each stream may be ahead by 16 KiB.
    let least = Duration::from_millis(2_500);
    let (by_upload, by_download) =
        tokio::join!(pin_from_another(&dag, "/tcp/", "2MiB", "0B"), pin_from_another(&dag, "/quic-v1", "0B", "2MiB"),);
    assert!(by_upload >= least, "sent in {by_upload:?}");
    assert!(by_download >= least, "read in {by_download:?}");
}
