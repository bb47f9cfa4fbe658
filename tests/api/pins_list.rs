//! `GET /api/psa/pins`

use pinnace::model::{Failure, FailureCode, PinState};
use serde_json::{Value, json};

use crate::support::{Server, cid, id, progress};

async fn pinned(server: &Server, body: Value) -> Value {
    let pin = server.pin(body).await;
    server.records.finish(id(&pin), PinState::Pinned { blocks: 1, bytes: 1 }).await.unwrap();
    pin
}

/// Pins 0 to 3 are queued, pinning, pinned and failed.
async fn one_of_each(server: &Server) {
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(id(&server.pin(json!({ "cid": cid(number), "name": "n" })).await));
    }
    server.set_fetching(ids[1], progress());
    server.records.finish(ids[2], PinState::Pinned { blocks: 1, bytes: 1 }).await.unwrap();
    let failure = Failure { code: FailureCode::Stalled, sentence: "gave up".into(), tried: Vec::new() };
    server.records.finish(ids[3], PinState::Failed(failure)).await.unwrap();
}

#[tokio::test]
async fn an_empty_list_is_a_list() {
    let server = Server::start().await;
    assert_eq!(server.get("/api/psa/pins").await.ok(200), json!({ "count": 0, "results": [] }));
}

#[tokio::test]
async fn shows_the_same_as_a_single_get() {
    let server = Server::start().await;
    let pin = pinned(&server, json!({ "cid": cid(1), "name": "x", "meta": { "a": "b" } })).await;
    let single = server.get(&crate::support::path(&pin)).await.ok(200);
    assert_eq!(server.get("/api/psa/pins").await.ok(200), json!({ "count": 1, "results": [single] }));
}

#[tokio::test]
async fn filters_by_status() {
    let server = Server::start().await;
    one_of_each(&server).await;
    assert_eq!(server.list("").await, (vec![cid(2)], 1));
    assert_eq!(server.list("name=n").await, (vec![cid(3), cid(2), cid(1), cid(0)], 4));
    for (number, status) in ["queued", "pinning", "pinned", "failed"].into_iter().enumerate() {
        assert_eq!(server.list(&format!("status={status}")).await, (vec![cid(number)], 1), "{status}");
        assert_eq!(server.list(&format!("status={status}&name=n")).await, (vec![cid(number)], 1), "{status}");
    }
    assert_eq!(server.list("status=queued,failed").await, (vec![cid(3), cid(0)], 2));
    assert_eq!(server.list("status=queued&status=pinning").await, (vec![cid(1), cid(0)], 2));
    assert_eq!(server.list(&format!("cid={}", cid(0))).await, (vec![], 0));
}

#[tokio::test]
async fn filters_by_content_however_the_cid_is_written() {
    let server = Server::start().await;
    let v0 = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG";
    let v1 = pinnace::model::cids::normalize(&v0.parse().unwrap());
    let base58 = v1.to_string_of_base(cid::multibase::Base::Base58Btc).unwrap();
    let raw = cid::Cid::new_v1(0x55, *v1.hash()).to_string();
    for text in [v0, &base58] {
        pinned(&server, json!({ "cid": text })).await;
    }
    pinned(&server, json!({ "cid": cid(1) })).await;
    for text in [v0.to_owned(), v1.to_string(), base58.clone()] {
        assert_eq!(server.list(&format!("cid={text}")).await, (vec![base58.clone(), v0.to_owned()], 2));
    }
    assert_eq!(server.list(&format!("cid={raw}")).await, (vec![], 0));
    assert_eq!(server.list(&format!("cid={},{v0},{}", cid(1), cid(2))).await.1, 3);
    assert_eq!(server.list("cid=baf4bcfhwbyi5eiqvfqrfsoqp2z7ffntbtjxjjey").await.1, 0);
}

#[tokio::test]
async fn filters_by_name_and_meta() {
    let server = Server::start().await;
    pinned(&server, json!({ "cid": cid(0), "name": "Café Menu", "meta": { "app": "a", "version": "1" } })).await;
    pinned(&server, json!({ "cid": cid(1), "name": "café menu", "meta": { "app": "a" } })).await;
    pinned(&server, json!({ "cid": cid(2) })).await;
    let both = (vec![cid(1), cid(0)], 2);
    assert_eq!(server.list("name=Caf%C3%A9%20Menu").await, (vec![cid(0)], 1));
    assert_eq!(server.list("name=Caf%C3%A9+Menu&match=exact").await, (vec![cid(0)], 1));
    assert_eq!(server.list("name=CAF%C3%89%20MENU&match=iexact").await, both);
    assert_eq!(server.list("name=Men&match=partial").await, (vec![cid(0)], 1));
    assert_eq!(server.list("name=%C3%89%20m&match=ipartial").await, both);
    assert_eq!(server.list("name=men").await, (vec![], 0));
    assert_eq!(server.list("meta=%7B%22app%22:%22a%22%7D").await, both);
    assert_eq!(server.list("meta[app]=a").await, both);
    assert_eq!(server.list("meta%5Bapp%5D=a&meta[version]=1").await, (vec![cid(0)], 1));
    assert_eq!(server.list("meta=%7B%22app%22:%22a%22,%22version%22:%222%22%7D").await, (vec![], 0));
    assert_eq!(server.list("meta[app]=a&name=menu&match=partial&status=queued").await, (vec![], 0));
}

#[tokio::test]
async fn pages_by_ten_with_before_until_all_are_seen() {
    let server = Server::start().await;
    let mut newest_first = Vec::new();
    for number in 0..25 {
        pinned(&server, json!({ "cid": cid(number) })).await;
        newest_first.insert(0, cid(number));
    }
    let mut seen = Vec::new();
    let mut counts = Vec::new();
    let mut query = String::new();
    loop {
        let page = server.get(&format!("/api/psa/pins?{query}")).await.ok(200);
        let results = page["results"].as_array().unwrap();
        seen.extend(results.iter().map(|pin| pin["pin"]["cid"].as_str().unwrap().to_owned()));
        counts.push(page["count"].as_u64().unwrap());
        if page["count"] == results.len() {
            break;
        }
        query = format!("before={}", results.last().unwrap()["created"].as_str().unwrap());
    }
    assert_eq!(seen, newest_first);
    assert_eq!(counts, [25, 15, 5]);
    assert_eq!(server.list("limit=1").await, (vec![cid(24)], 25));
    assert_eq!(server.list("limit=1000").await, (newest_first, 25));
}

/// The CIDs and the statuses of all pages of a list, and the count of each page.
async fn all_pages(server: &Server, query: &str) -> (Vec<(String, String)>, Vec<u64>) {
    let (mut seen, mut counts, mut before) = (Vec::new(), Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/api/psa/pins?{query}{before}")).await.ok(200);
        let results = page["results"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        seen.extend(results.iter().map(|pin| (text(&pin["pin"]["cid"]), text(&pin["status"]))));
        counts.push(page["count"].as_u64().unwrap());
        match results.last() {
            Some(last) if page["count"] != results.len() => before = format!("&before={}", text(&last["created"])),
            _ => return (seen, counts),
        }
    }
}

#[tokio::test]
async fn what_is_being_fetched_is_told_apart_on_every_page() {
    let server = Server::start().await;
    let (_, other) = server.other_account().await;
    let request = server.request(reqwest::Method::POST, "/api/psa/pins", &other).json(&json!({ "cid": cid(1) }));
    server.set_fetching(id(&server.send(request).await.ok(202)), progress());
    let mut pins = Vec::new();
    for number in 0..12 {
        pins.push(id(&server.pin(json!({ "cid": cid(number), "name": format!("n{}", number % 2) })).await));
    }
    // Every third is being fetched; one of those was whole before, and one has ended but is still on the board.
    for number in (0..12).step_by(3) {
        server.set_fetching(pins[number], progress());
    }
    server.board.set_mending(pins[3]);
    server.records.finish(pins[9], PinState::Pinned { blocks: 1, bytes: 1 }).await.unwrap();

    let expected = |status: &str, numbers: &[usize]| -> Vec<(String, String)> {
        numbers.iter().map(|number| (cid(*number), status.to_owned())).collect()
    };
    let pinning = (expected("pinning", &[6, 3, 0]), vec![3, 1]);
    assert_eq!(all_pages(&server, "status=pinning&limit=2").await, pinning);
    let queued = (expected("queued", &[11, 10, 8, 7, 5, 4, 2, 1]), vec![8, 5, 2]);
    assert_eq!(all_pages(&server, "status=queued&limit=3").await, queued);
    assert_eq!(server.list("status=pinned,pinning&limit=2").await, (vec![cid(9), cid(6)], 4));
    assert_eq!(server.list("status=pinning&name=n0").await, (vec![cid(6), cid(0)], 2));
    assert_eq!(server.list(&format!("status=queued&cid={},{}", cid(3), cid(4))).await, (vec![cid(4)], 1));

    // It has ended for everyone, or waits again: nothing else changes.
    server.board.forget(&pins[9]);
    server.board.forget(&pins[6]);
    assert_eq!(server.list("status=pinning").await, (vec![cid(3), cid(0)], 2));
    assert_eq!(server.list("status=queued&limit=1").await, (vec![cid(11)], 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pin_falls_back_to_queued_while_lists_are_read() {
    let server = Server::start().await;
    let mut pins = Vec::new();
    for number in 0..40 {
        pins.push(id(&server.pin(json!({ "cid": cid(number), "name": "n" })).await));
    }
    // As the runner does: the record first, then the board.
    let run = async {
        for (number, pin) in pins.iter().enumerate() {
            server.set_fetching(*pin, progress());
            if number % 3 > 0 {
                tokio::task::yield_now().await;
            }
            server.records.finish(*pin, PinState::Pinned { blocks: 1, bytes: 1 }).await.unwrap();
            server.board.forget(pin);
        }
    };
    let look = async {
        let mut reached = std::collections::HashMap::new();
        let rank = |status: &str| ["queued", "pinning", "pinned"].iter().position(|known| *known == status).unwrap();
        loop {
            let mut pinned = 0;
            for query in ["name=n&limit=1000", "status=queued&limit=1000", "status=queued,pinning&limit=7"] {
                let page = server.get(&format!("/api/psa/pins?{query}")).await.ok(200);
                let results = page["results"].as_array().unwrap();
                // A page that has room for more has all that were counted.
                let room = if query.ends_with("=7") { 7 } else { 1000 };
                assert_eq!(results.len() as u64, page["count"].as_u64().unwrap().min(room));
                for pin in results {
                    let status = rank(pin["status"].as_str().unwrap());
                    let before = reached.insert(id(pin), status);
                    assert!(before <= Some(status), "{} was {before:?}: {pin}", pin["requestid"]);
                    pinned += usize::from(status == 2);
                }
                if query.starts_with("name") {
                    assert_eq!(page["count"], 40);
                }
            }
            if pinned == 40 {
                return;
            }
        }
    };
    tokio::join!(run, look);
}

#[tokio::test]
async fn a_page_of_large_pins_is_short_and_the_next_goes_on_with_the_first_left_out() {
    let server = Server::start().await;
    let meta = json!({ "key": "x".repeat(60 * 1024) });
    for number in 0..80 {
        server.pin(json!({ "cid": cid(number), "name": "large", "meta": meta })).await;
    }
    let (mut seen, mut lengths) = (Vec::new(), Vec::new());
    let mut before = String::new();
    while seen.len() < 80 {
        let page = server.get(&format!("/api/psa/pins?name=large&limit=1000{before}")).await.ok(200);
        let results = page["results"].as_array().unwrap();
        assert_eq!(page["count"], 80 - seen.len());
        seen.extend(results.iter().map(|pin| pin["pin"]["cid"].as_str().unwrap().to_owned()));
        lengths.push(results.len());
        before = format!("&before={}", results.last().expect("a page has a pin")["created"].as_str().unwrap());
    }
    assert_eq!(seen, (0..80).rev().map(cid).collect::<Vec<_>>());
    assert_eq!(lengths, [68, 12]);
}

#[tokio::test]
async fn before_and_after_are_strict_and_understand_other_spellings_of_a_time() {
    let server = Server::start().await;
    let mut times = Vec::new();
    for number in 0..3 {
        times.push(pinned(&server, json!({ "cid": cid(number) })).await["created"].as_str().unwrap().to_owned());
    }
    assert_eq!(server.list(&format!("before={}", times[1])).await, (vec![cid(0)], 1));
    assert_eq!(server.list(&format!("after={}", times[1])).await, (vec![cid(2)], 1));
    assert_eq!(server.list(&format!("after={}&before={}", times[0], times[2])).await, (vec![cid(1)], 1));
    assert_eq!(server.list(&format!("after={}&before={}", times[2], times[0])).await, (vec![], 0));
    let other_zone = format!("{}+00:00", times[1].trim_end_matches('Z'));
    assert_eq!(server.list(&format!("before={other_zone}")).await, (vec![cid(0)], 1));
    let finer = format!("{}999Z", times[1].trim_end_matches('Z'));
    assert_eq!(server.list(&format!("before={finer}")).await, (vec![cid(0)], 1));
}

#[tokio::test]
async fn never_shows_pins_of_another_user() {
    let server = Server::start().await;
    pinned(&server, json!({ "cid": cid(0), "name": "x" })).await;
    let (_, other) = server.other_account().await;
    let request = server.request(reqwest::Method::GET, "/api/psa/pins?name=x", &other);
    assert_eq!(server.send(request).await.ok(200)["count"], 0);
}

#[tokio::test]
async fn refuses_filters_it_does_not_understand() {
    let server = Server::start().await;
    for query in [
        "cid=hello",
        "status=done",
        "match=fuzzy&name=x",
        "before=yesterday",
        "limit=0",
        "limit=1001",
        "meta=map%5Ba:b%5D",
        "meta=%5B%5D",
        "statuses=pinned",
        "name=a&name=b",
        "limit=5&limit=7",
    ] {
        server.get(&format!("/api/psa/pins?{query}")).await.error(400, "BAD_REQUEST");
    }
}
