//! One pinnace pins from another.

use pinnace::bitswap::wire::WantKind;

use crate::support::asker::{Answer, Asker};
use crate::support::daemon::Home;
use crate::support::dag::Dag;
use crate::support::provider::Provider;

async fn pins_from_another(transport: &str) {
    let dags = [Dag::wide("wide", 40, 250_000), Dag::shared("shared", 40)];
    let (first_home, second_home) = (Home::new(), Home::new());
    let (first, second) = (first_home.start().await, second_home.start().await);

    let first_api = first.api();
    for dag in &dags {
        let provider = Provider::start(dag).await;
        let pin = first_api.add(&dag.root, &[provider.origin()]).await;
        first_api.wait_pinned(&pin, 20).await;
    }
    let second_api = second.api();
    for dag in &dags {
        let pin = second_api.add(&dag.root, &[first.ready.multiaddr(transport)]).await;
        let pin = second_api.wait_pinned(&pin, 20).await;
        assert_eq!(pin["pin"]["cid"], dag.root.to_string());
    }
    let (status, _) = first.terminate().await;
    assert!(status.success());

    let mut asker = Asker::connect(&second.ready.multiaddr("/tcp/")).await;
    for dag in &dags {
        asker.compare(dag).await;
    }
    assert!(second.terminate().await.0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_pins_from_another_over_tcp() {
    pins_from_another("/tcp/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_pins_from_another_over_quic() {
    pins_from_another("/quic-v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_for_a_block_before_it_came_gets_it() {
    let dag = Dag::wide("awaited", 3, 5_000);
    let home = Home::new();
    let service = home.start().await;
    let mut asker = Asker::connect(&service.ready.multiaddr("/tcp/")).await;
    let mut stream = asker.open().await;
    for (cid, _) in &dag.blocks {
        assert_eq!(asker.ask_through(&mut stream, *cid, WantKind::Block).await, Answer::DontHave);
    }

    let provider = Provider::start(&dag).await;
    let pin = service.api().add(&dag.root, &[provider.origin()]).await;
    let (root, leaf) = (dag.root, dag.blocks[0].0);
    assert_eq!(asker.answer(&root).await, Answer::Block(dag.data(&root).clone()));
    assert_eq!(asker.answer(&leaf).await, Answer::Block(dag.data(&leaf).clone()));
    service.api().wait_pinned(&pin, 10).await;
}
