//! Peers that are kept connected are sources for every pin.

use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::provider::Provider;

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_peer_is_connected_again_and_asked_without_being_named() {
    let (home, kept_home) = (Home::new(), Home::new());
    let kept = kept_home.start().await;
    let (address, token) = (kept.ready.multiaddr("/tcp/"), kept.ready.token().to_owned());
    let service = home.serve().env("PINNACE_NETWORK__PEERING", &format!("[{address:?}]")).start().await;
    let api = service.api();
    let mut kept = Some(kept);
    for name in ["before", "after its restart"] {
        let dag = Dag::wide(name, 3, 1000);
        let running = kept.take().unwrap();
        let provider = Provider::start(&dag).await;
        let kept_api = running.api_with(&token);
        let pin = kept_api.add(&dag.root, &[provider.origin()]).await;
        kept_api.wait_pinned(&pin, 20).await;
        drop(provider);
        let pin = api.add(&dag.root, &[]).await;
        api.wait_pinned(&pin, 60).await;
        assert!(running.terminate().await.0.success());
        let listen = address.rsplit_once("/p2p/").unwrap().0;
        kept = Some(kept_home.serve().listen(&[listen]).start().await);
    }
}
