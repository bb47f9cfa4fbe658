//! Versions of a DAG that have most of it in common: what is known to be whole isn't looked through again.

use serde_json::Value;

use crate::support::daemon::{Home, run};
use crate::support::dag::Dag;
use crate::support::provider::Provider;
use crate::support::until;

fn json(home: &Home, command: &[&str]) -> Value {
    let output = run(&[command, &["--json"]].concat(), &home.data());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Of how many sub-DAGs it is known that they are whole.
fn whole_sub_dags(home: &Home) -> u64 {
    json(home, &["status"])["store"]["whole_sub_dags"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_a_large_dag_has_the_figures_of_a_whole_walk() {
    let large = Dag::wide("what both have", 1_500, 200);
    let (old, new) = (Dag::wide("what one has", 3, 100), Dag::wide("what the other has", 5, 100));
    // A leaf of the large part is below the root as well.
    let shared = large.blocks[7].0;
    let first = Dag::over("first version", &[&large, &old], &[shared]);
    let second = Dag::over("second version", &[&new, &large], &[shared]);
    let (provider, other) = (Provider::start(&first).await, Provider::start(&second).await);
    let home = Home::new();
    let service = home.start().await;
    let token = service.ready.token().to_owned();
    let pin = service.api().add(&first.root, &[provider.origin()]).await;
    service.api().wait_pinned(&pin, 20).await;
    until("the sub-DAG to be known", 20, async || (whole_sub_dags(&home) == 1).then_some(())).await;
    service.kill().await;
    drop(provider);

    let service = home.start().await;
    let api = service.api_with(&token);
    let pin = api.add(&second.root, &[other.origin()]).await;
    api.wait_pinned(&pin, 20).await;
    let only_new = other.asked();
    assert!(only_new.len() == 7 && only_new.iter().all(|cid| large.blocks.iter().all(|(held, _)| held != cid)));
    let bytes = |dag: &Dag| dag.blocks.iter().map(|(_, data)| data.len() as u64).sum::<u64>();
    let accounts = json(&home, &["user", "list"]);
    assert_eq!(accounts[0]["pinned"]["bytes"], bytes(&first) + bytes(&second), "{accounts}");

    // What is known of a DAG goes with it.
    for pin in json(&home, &["pin", "list"])["pins"].as_array().unwrap() {
        assert!(run(&["pin", "remove", pin["id"].as_str().unwrap()], &home.data()).status.success());
    }
    assert_eq!(json(&home, &["gc"])["removed_blocks"], (first.blocks.len() + 7) as u64);
    assert_eq!(whole_sub_dags(&home), 0);
}
