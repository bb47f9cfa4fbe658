//! A process that is killed in the middle of a pin: the next one goes on.

use std::collections::HashSet;

use crate::support::asker::Asker;
use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::provider::Provider;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_goes_on_where_it_was() {
    let dag = Dag::wide("interrupted", 60, 50_000);
    let mut provider = Provider::start_allowing(&dag, 21).await;
    let home = Home::new();
    let mut service = home.start().await;
    let token = service.ready.token().to_owned();
    let pin = service.api().add(&dag.root, &[provider.origin()]).await;

    let mut stored = HashSet::new();
    for allowed in [21, 42] {
        provider.allow(allowed);
        service.api_with(&token).wait_blocks(&pin, allowed, 15).await;
        let asked = provider.asked();
        assert!(asked.iter().all(|cid| !stored.contains(cid)), "what was stored is not asked for again");
        let progress = service.api_with(&token).get(&pin).await;
        assert_eq!(progress["info"]["blocks_known"], "61", "{progress}");
        service.kill().await;
        // The provider answers in the order in which it is asked.
        stored.extend(asked.into_iter().take(21));
        assert_eq!(stored.len(), allowed);
        provider.forget_asked();
        service = home.start().await;
        assert!(service.ready.has_no_secret(), "{:?}", service.ready);
    }

    provider.allow(usize::MAX);
    provider.wait_sent(61).await;
    service.api_with(&token).wait_pinned(&pin, 15).await;
    assert!(provider.asked().iter().all(|cid| !stored.contains(cid)), "what was stored is not asked for again");
    drop(provider);
    Asker::connect(&service.ready.multiaddr("/tcp/")).await.compare(&dag).await;
}
