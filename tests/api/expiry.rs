//! Pins that go by themselves.

use std::time::Duration;

use jiff::Timestamp;
use pinnace::model::{PinId, UserId};
use pinnace::pins::board::PinChange;
use pinnace::store::records::NewPin;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{EMAIL, OTHER_PASSWORD, PASSWORD, Server, cid, id, path};

/// Long enough for a request to be read before it is over, whatever else the machine does.
const SOON: Duration = Duration::from_secs(2);

fn in_a(duration: Duration) -> String {
    (Timestamp::now() + duration).to_string()
}

fn body(number: usize, expires_at: &str) -> serde_json::Value {
    json!({ "cid": cid(number), "meta": { "pinnace.expires_at": expires_at } })
}

#[tokio::test]
async fn the_time_is_checked_and_shown_and_a_replacement_has_its_own() {
    let server = Server::start().await;
    for (at, says) in [("soon", "RFC 3339"), ("2020-01-01T00:00:00Z", "is past")] {
        let answer = server.post("/api/psa/pins", body(1, at)).await;
        let details = answer.error(400, "BAD_REQUEST");
        assert!(details.contains("pinnace.expires_at") && details.contains(says), "{details}");
    }
    let pin = server.pin(body(1, "2999-12-31T23:00:00+01:00")).await;
    assert_eq!(pin["info"]["pinned_until"], "2999-12-31T22:00:00.000Z");
    assert_eq!(pin["pin"]["meta"]["pinnace.expires_at"], "2999-12-31T23:00:00+01:00");
    let replaced = server.post(&path(&pin), body(1, "2999-12-30T00:00:00Z")).await.ok(202);
    assert_eq!(replaced["info"]["pinned_until"], "2999-12-30T00:00:00.000Z");
    let for_ever = server.post(&path(&replaced), json!({ "cid": cid(1) })).await.ok(202);
    assert_eq!(for_ever["info"].get("pinned_until"), None);
    assert_eq!(
        server.records.expired(i64::MAX, 10).unwrap(),
        (vec![], None),
        "none is left of those that were replaced"
    );
}

#[tokio::test]
async fn an_account_may_have_a_lifetime_of_its_own() {
    let server = Server::start().await;
    let (_, token) = server.other_account().await;
    let (admin, _) = server.login(EMAIL, PASSWORD).await;
    let change = async |body: Value| {
        let request = server.request(Method::PATCH, "/api/admin/users/other@example.org", &admin);
        server.send(request.json(&body)).await
    };
    let add = async |body: Value| {
        let request = server.request(Method::POST, "/api/psa/pins", &token);
        server.send(request.json(&body)).await.ok(202)
    };
    let me = async || server.send(server.request(Method::GET, "/api/auth/me", &token)).await.ok(200);
    let lasts_s = |pin: &Value| {
        let time = |value: &Value| value.as_str().map(|text| text.parse::<Timestamp>().unwrap().as_millisecond());
        Some((time(&pin["info"]["pinned_until"])? - time(&pin["created"])?) / 1000)
    };
    assert_eq!(
        (lasts_s(&add(json!({ "cid": cid(1) })).await), &me().await["pin_lifetime_seconds"]),
        (None, &Value::Null)
    );

    let changed = change(json!({ "pin_lifetime_seconds": 3600 })).await.ok(200);
    assert_eq!((&changed["pin_lifetime_seconds"], &me().await["pin_lifetime_seconds"]), (&json!(3600), &json!(3600)));
    let pin = add(json!({ "cid": cid(2) })).await;
    assert!((3599..=3600).contains(&lasts_s(&pin).unwrap()), "{pin}");
    // What the client says counts, also when it is later.
    assert_eq!(add(body(3, "2999-12-31T22:00:00Z")).await["info"]["pinned_until"], "2999-12-31T22:00:00.000Z");
    // Others aren't concerned, and the pins of before neither.
    assert_eq!(lasts_s(&server.pin(json!({ "cid": cid(4) })).await), None);
    assert_eq!(server.records.expired(i64::MAX, 10).unwrap().0.len(), 2);

    for (lifetime, shown) in [(json!(0), json!(0)), (Value::Null, Value::Null)] {
        let changed = change(json!({ "pin_lifetime_seconds": lifetime })).await.ok(200);
        assert_eq!(changed["pin_lifetime_seconds"], shown);
        assert_eq!(lasts_s(&add(json!({ "cid": cid(5) })).await), None);
    }
    for lifetime in [json!(-1), json!("1d"), json!(315_360_001)] {
        change(json!({ "pin_lifetime_seconds": lifetime })).await.error(400, "BAD_REQUEST");
    }
    let new = json!({ "email": "n@example.org", "password": OTHER_PASSWORD, "pin_lifetime_seconds": 60 });
    let made = server.send(server.request(Method::POST, "/api/admin/users", &admin).json(&new)).await.ok(201);
    assert_eq!(made["pin_lifetime_seconds"], 60);
}

/// Waits until the runner is told that a pin is gone.
async fn removed(server: &mut Server, pin: PinId) {
    let told =
        async { while !matches!(server.changes.recv().await, Some(PinChange::Removed(removed)) if removed == pin) {} };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("its time has come");
}

#[tokio::test]
async fn pins_go_when_their_time_has_come_and_those_that_are_overdue_at_the_start() {
    let mut server = Server::start().await;
    let stays = server.pin(json!({ "cid": cid(1) })).await;
    let late = server.pin(body(2, &in_a(Duration::from_hours(1)))).await;
    // Sooner than the one that it waits for.
    let soon = server.pin(body(3, &in_a(SOON))).await;
    removed(&mut server, id(&soon)).await;
    server.get(&path(&soon)).await.error(404, "NOT_FOUND");
    // Nobody removes this one before the restart.
    let overdue = server.records.write(|change| {
        let new = NewPin { expires_ms: Some(1000), ..NewPin::plain(UserId(1), cid(4).parse().unwrap()) };
        change.add_pin(new, None, Timestamp::now().as_millisecond())
    });
    let overdue = overdue.await.unwrap().unwrap().id;
    let mut server = server.restart().await;
    removed(&mut server, overdue).await;
    for pin in [&stays, &late] {
        server.get(&path(pin)).await.ok(200);
    }
}

/// The runner must not be left with a pin that is gone: it would fetch for nobody.
#[tokio::test]
async fn a_pin_that_goes_before_the_runner_heard_of_it_stays_gone() {
    let mut server = Server::start().await;
    let replaced = server.pin(json!({ "cid": cid(1) })).await;
    // The runner is so busy that what waits for a place in its queue gets one in turn, however late.
    let nobody = PinId::new();
    let full = async {
        loop {
            server.board.announce(PinChange::Removed(nobody)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), full).await.is_err());
    let request = server.request(reqwest::Method::POST, &path(&replaced), &server.token);
    let replacement = tokio::spawn(request.json(&body(2, &in_a(SOON))).send());
    // It is removed while the request still waits to announce that what it replaces is gone.
    let soon = until(|| server.records.expired(i64::MAX, 1).unwrap().0.first().copied()).await;
    until(|| server.records.get(soon).unwrap().is_none().then_some(())).await;
    let mut told = Vec::new();
    let heard = async {
        while told.len() < 3 {
            match server.changes.recv().await.unwrap() {
                PinChange::Added(record) if record.id == soon => told.push("added"),
                PinChange::Removed(pin) if pin == soon => told.push("removed"),
                _ => {}
            }
        }
    };
    // How often it is told is open; what is told last isn't.
    let _ = tokio::time::timeout(Duration::from_secs(5), heard).await;
    assert!(told.contains(&"added") && told.last() == Some(&"removed"), "{told:?}");
    assert_eq!(replacement.await.unwrap().unwrap().status(), 202);
}

/// What `look` finds, as soon as it does.
async fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let found = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("it comes")
}
