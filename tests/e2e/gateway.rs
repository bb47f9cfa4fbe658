//! The gateway of a whole service: what was pinned is served to everyone, also while the service stops.

use futures::StreamExt;
use reqwest::Client;

use crate::support::daemon::{Daemon, Home};
use crate::support::dag::Dag;
use crate::support::provider::Provider;
use crate::support::within;

/// Far more than the service takes for answers that are on their way, and far less than what they send.
#[cfg(target_os = "linux")]
const MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What is taken of an answer without an end.
const TAKEN_BYTES: usize = 512 * 1024 * 1024;

fn url(service: &Daemon, path: &str) -> String {
    service.ready.endpoint.replace("/api/psa/", &format!("/ipfs/{path}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dag_without_end_is_served_in_little_memory_until_the_service_stops() {
    let home = Home::new();
    let service = home.start().await;
    // Few blocks, and more ways through them than anyone can go.
    let dag = Dag::shared("without end", 60);
    let provider = Provider::start(&dag).await;
    let pin = service.api().add(&dag.root, &[provider.origin()]).await;
    service.api().wait_pinned(&pin, 15).await;

    let client = Client::builder().no_proxy().build().unwrap();
    let once = client.get(url(&service, &format!("{}?format=car", dag.root))).send().await.unwrap();
    assert_eq!(once.status(), 200);
    let whole = once.bytes().await.unwrap();
    assert!(whole.len() > 100_000 && whole.len() < 1_000_000, "{} bytes", whole.len());

    let endless = client.get(url(&service, &format!("{}?format=car&car-dups=y", dag.root))).send().await.unwrap();
    let mut body = endless.bytes_stream();
    let mut taken = 0;
    while taken < TAKEN_BYTES {
        taken += within("more of the answer", 20, body.next()).await.unwrap().unwrap().len();
    }
    #[cfg(target_os = "linux")]
    assert!(service.memory_peak() < MEMORY_BYTES_MAX, "{} bytes of memory", service.memory_peak());
    let (stopped, rest) = tokio::join!(service.terminate(), async {
        while let Some(piece) = body.next().await {
            if piece.is_err() {
                return "broken off";
            }
        }
        "whole"
    });
    let (status, elapsed) = stopped;
    assert!(status.success(), "{status}");
    assert!(elapsed.as_secs() < 5, "the stop took {elapsed:?}");
    assert_eq!(rest, "broken off");

    let service = home.serve().env("PINNACE_HTTP__GATEWAY", "false").start().await;
    let refused = client.get(url(&service, &format!("{}?format=raw", dag.root))).send().await.unwrap();
    assert_eq!(refused.status(), 404);
    assert!(service.terminate().await.0.success());
}
