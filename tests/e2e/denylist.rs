//! What the operator doesn't want: neither fetched nor served, as soon as the file says so.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use pinnace::bitswap::wire::WantKind;
use reqwest::Client;

use crate::support::api::details;
use crate::support::asker::{Answer, Asker};
use crate::support::daemon::{Daemon, Home};
use crate::support::dag::Dag;
use crate::support::provider::Provider;
use crate::support::until;

async fn start(home: &Home, list: &Path) -> Daemon {
    home.serve().env("PINNACE_DENYLIST__FILES", &format!("[{:?}]", list.display().to_string())).start().await
}

async fn wait_log(service: &Daemon, text: &str) {
    until(text, 15, async || service.log().contains(text).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_pins_fail_and_allowed_ones_do_not() {
    let home = Home::new();
    let list = home.path("list.deny");
    let [root, inner, allowed] = ["root", "inner", "allowed"].map(|name| Dag::wide(name, 3, 1000));
    let (leaf, _) = &inner.blocks[1];
    let text = format!(
        "version: 1\n---\n/ipfs/{}\n/ipfs/{leaf}\n/ipfs/{}\n!/ipfs/{}\n",
        root.root, allowed.root, allowed.root
    );
    fs::write(&list, text).unwrap();
    let service = start(&home, &list).await;
    let api = service.api();
    for (dag, named) in [(&root, "this CID".to_owned()), (&inner, leaf.to_string())] {
        let provider = Provider::start(dag).await;
        let pin = api.add(&dag.root, &[provider.origin()]).await;
        let failed = api.wait(&pin, "failed pin", 15, |pin| pin["status"] == "failed").await;
        assert_eq!(failed["info"]["failure"], "denied", "{failed}");
        assert!(details(&failed).contains(&named) && details(&failed).contains("denylist"), "{failed}");
        assert!(!provider.asked().contains(&root.root) && !provider.asked().contains(leaf));
    }
    let provider = Provider::start(&allowed).await;
    let pin = api.add(&allowed.root, &[provider.origin()]).await;
    api.wait_pinned(&pin, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_later_is_no_longer_served_and_a_broken_file_changes_nothing() {
    let home = Home::new();
    let list = home.path("list.deny");
    fs::write(&list, "# nothing yet\n").unwrap();
    let service = start(&home, &list).await;
    let api = service.api();
    let dag = Dag::wide("served", 3, 1000);
    let provider = Provider::start(&dag).await;
    let pin = api.add(&dag.root, &[provider.origin()]).await;
    let pinned = api.wait_pinned(&pin, 15).await;
    assert!(pinned["info"]["denied"].is_null(), "{pinned}");
    let mut asker = Asker::connect(&service.ready.multiaddr("/tcp/")).await;
    asker.compare(&dag).await;
    let client = Client::builder().no_proxy().build().unwrap();
    let url = service.ready.endpoint.replace("/api/psa/", &format!("/ipfs/{}?format=raw", dag.root));
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);

    writeln!(OpenOptions::new().append(true).open(&list).unwrap(), "/ipfs/{}", dag.root).unwrap();
    api.wait(&pin, "pin that says that it is denied", 15, |pin| pin["info"]["denied"].is_string()).await;
    for _ in 0..2 {
        assert_eq!(asker.ask(dag.root, WantKind::Block).await, Answer::DontHave);
        assert_eq!(asker.ask(dag.root, WantKind::Have).await, Answer::DontHave);
        let gone = client.get(&url).send().await.unwrap();
        assert_eq!(gone.status(), 410);
        assert!(gone.text().await.unwrap().contains("denylist"));
        // The second time with a file that can't be used.
        fs::write(&list, "no rule at all\n").unwrap();
        wait_log(&service, "list.deny, line 1: ").await;
    }
    assert_eq!(api.get(&pin).await["status"], "pinned");

    fs::write(&list, "# nothing more\n").unwrap();
    api.wait(&pin, "pin that isn't denied any more", 15, |pin| pin["info"]["denied"].is_null()).await;
    asker.compare(&dag).await;
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_usable_list_is_refused() {
    let home = Home::new();
    let list = home.path("list.deny");
    let serve = || home.serve().env("PINNACE_DENYLIST__FILES", &format!("[{:?}]", list.display().to_string()));
    serve().fail().await.says(&["list.deny", "can't be read", "denylist.files"]);
    fs::write(&list, "#\nhello\n").unwrap();
    serve().fail().await.says(&["list.deny, line 2", "\"hello\" is no rule"]);
}
