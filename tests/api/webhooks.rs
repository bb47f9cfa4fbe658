//! Webhooks: who sets them, where they may lead, and what is told, to a server of the test's own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use pinnace::auth::Role;
use pinnace::model::{Failure, FailureCode, PinState, UserId};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{Answer, EMAIL, OTHER_PASSWORD, PASSWORD, Server, cid, id};

const HOOK: &str = "/api/auth/webhook";
const PINNED: PinState = PinState::Pinned { blocks: 1, bytes: 7 };

/// A call of a webhook.
struct Call {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// The event, whose signature is checked.
    #[track_caller]
    fn event(&self, secret: &str) -> Value {
        let header = self.headers["pinnace-signature"].to_str().unwrap();
        let (seconds, signature) = header.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(seconds.as_bytes());
        mac.update(b".");
        mac.update(&self.body);
        let digest = mac.finalize().into_bytes();
        let expected = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        assert_eq!(signature, expected);
        let age = Timestamp::now().as_second() - seconds.parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{age}");
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the receiver answers: the status of each call, the last one for all that follow.
type Statuses = Arc<Mutex<Vec<u16>>>;

/// A server that is called.
struct Receiver {
    url: String,
    calls: mpsc::UnboundedReceiver<Call>,
    statuses: Statuses,
}

impl Receiver {
    async fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, calls) = mpsc::unbounded_channel();
        let statuses: Statuses = Arc::new(Mutex::new(statuses.to_vec()));
        let router = Router::new().fallback(called).with_state((sender, Arc::clone(&statuses)));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, calls, statuses }
    }

    fn hook(&self) -> String {
        format!("{}/hook", self.url)
    }

    fn answer(&self, status: u16) {
        *self.statuses.lock().unwrap() = vec![status];
    }

    async fn call(&mut self) -> Call {
        tokio::time::timeout(Duration::from_secs(20), self.calls.recv()).await.expect("a call").unwrap()
    }
}

async fn called(
    State((sender, statuses)): State<(mpsc::UnboundedSender<Call>, Statuses)>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    assert_eq!(parts.method, Method::POST);
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let status = {
        let mut statuses = statuses.lock().unwrap();
        if statuses.len() > 1 { statuses.remove(0) } else { statuses[0] }
    };
    let _ = sender.send(Call { path: parts.uri.path().to_owned(), headers: parts.headers, body });
    (StatusCode::from_u16(status).unwrap(), [("location", "/elsewhere")], "an answer").into_response()
}

/// A call of the API with the token of a login.
async fn call(server: &Server, method: Method, token: &str, body: Value) -> Answer {
    let request = server.request(method, HOOK, token);
    server.send(if body.is_null() { request } else { request.json(&body) }).await
}

/// A login of the first account, and the secret of the webhook that it has set.
async fn set(server: &Server, url: &str) -> (String, String) {
    let (login, _) = server.login(EMAIL, PASSWORD).await;
    let answer = call(server, Method::PUT, &login, json!({ "url": url })).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let made = answer.ok(200);
    assert_eq!((&made["url"], &made["last"]), (&json!(url), &Value::Null));
    (login, made["secret"].as_str().unwrap().to_owned())
}

/// The webhook as its owner sees it, as soon as `is_so` says so.
async fn shown(server: &Server, login: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let looks = async {
        loop {
            let shown = call(server, Method::GET, login, Value::Null).await.ok(200);
            if is_so(&shown) {
                return shown;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looks).await.expect("it comes to be so")
}

#[tokio::test]
async fn events_are_signed_and_told_in_order_again_after_a_failure() {
    let server = Server::start().await;
    let mut receiver = Receiver::start(&[500, 204]).await;
    let (login, secret) = set(&server, &receiver.hook()).await;
    let body = json!({ "cid": cid(1), "name": "first", "meta": { "key": "value" } });
    let (pinned, failed) = (server.pin(body).await, server.pin(json!({ "cid": cid(2) })).await);
    let removed = server.pin(json!({ "cid": cid(3) })).await;
    let soon = Timestamp::now() + Duration::from_millis(300);
    let expires = json!({ "cid": cid(4), "meta": { "pinnace.expires_at": soon.to_string() } });
    let failure = Failure { code: FailureCode::NoProvider, sentence: "nobody has it".into(), tried: Vec::new() };
    server.records.finish(id(&pinned), PINNED).await.unwrap();
    server.records.finish(id(&failed), PinState::Failed(failure)).await.unwrap();
    // What its owner removes is told to nobody.
    server.delete(&crate::support::path(&removed)).await.ok(202);
    let expires = server.pin(expires).await;

    let refused = receiver.call().await;
    let first = receiver.call().await;
    assert_eq!((&refused.body, &refused.path), (&first.body, &"/hook".to_owned()), "the same event again");
    let event = refused.event(&secret);
    assert_eq!(event, first.event(&secret));
    let expected = json!({
        "requestid": pinned["requestid"], "status": "pinned", "created": pinned["created"], "cid": cid(1), "name": "first",
        "meta": { "key": "value" }, "info": event["pin"]["info"],
    });
    assert_eq!((&event["event"], &event["pin"]), (&json!("pinned"), &expected));
    assert_eq!(event["pin"]["info"]["dag_size"], "7");
    let mut ids = vec![event["id"].as_str().unwrap().to_owned()];
    for (kind, pin) in [("failed", &failed), ("expired", &expires)] {
        let event = receiver.call().await.event(&secret);
        assert_eq!((&event["event"], &event["pin"]["requestid"]), (&json!(kind), &pin["requestid"]), "{event}");
        let info = &event["pin"]["info"];
        match kind {
            "failed" => assert_eq!(
                (&info["failure"], &info["status_details"]),
                (&json!("no_provider"), &json!("nobody has it"))
            ),
            _ => assert_eq!(info["pinned_until"], format!("{soon:.3}")),
        }
        ids.push(event["id"].as_str().unwrap().to_owned());
    }
    assert!(ids.is_sorted() && ids[0] != ids[1], "{ids:?}");
    assert!(server.records.get(id(&expires)).unwrap().is_none());

    let shown = shown(&server, &login, |shown| shown["waiting"] == 0).await;
    assert_eq!((&shown["last"]["status"], &shown["last"]["error"]), (&json!(204), &Value::Null));
    assert!(!shown.to_string().contains(&secret), "{shown}");
    assert!(receiver.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_says_so() {
    let server = Server::start().await;
    let mut receiver = Receiver::start(&[302]).await;
    let (login, secret) = set(&server, &receiver.hook()).await;
    let pin = server.pin(json!({ "cid": cid(1) })).await;
    server.records.finish(id(&pin), PINNED).await.unwrap();
    let failed = shown(&server, &login, |shown| shown["last"].is_object()).await;
    assert_eq!((&failed["last"]["status"], &failed["waiting"]), (&json!(302), &json!(1)));
    assert!(failed["last"]["error"].as_str().unwrap().contains("redirects are not followed"), "{failed}");
    receiver.answer(200);
    shown(&server, &login, |shown| shown["waiting"] == 0).await;
    let mut calls = 0;
    while let Ok(call) = receiver.calls.try_recv() {
        assert_eq!((call.path.as_str(), &call.event(&secret)["event"]), ("/hook", &json!("pinned")));
        calls += 1;
    }
    assert!(calls >= 2);
}

#[tokio::test]
async fn private_addresses_and_plain_http_are_refused_in_the_public_profile() {
    let server = Server::start_public().await;
    let mut receiver = Receiver::start(&[200]).await;
    let (login, _) = server.login(EMAIL, PASSWORD).await;
    for (url, says) in [
        (receiver.hook().as_str(), "not globally routable"),
        ("https://192.168.1.1/", "not globally routable"),
        ("https://169.254.169.254/latest/meta-data", "not globally routable"),
        ("https://[::1]:8080/", "not globally routable"),
        ("https://localhost/hook", "not globally routable"),
        ("https://0x7f000001/", "not globally routable"),
        ("http://example.org/hook", "plain HTTP"),
        ("https://user:word@example.org/", "password"),
        ("file:///etc/passwd", "https://"),
        ("no url", "not a URL"),
    ] {
        let details = call(&server, Method::PUT, &login, json!({ "url": url })).await.error(400, "BAD_REQUEST");
        assert!(details.contains("\"url\"") && details.contains(says), "{url}: {details}");
    }
    call(&server, Method::PUT, &login, json!({ "url": "https://example.org/", "secret": "x" }))
        .await
        .error(400, "BAD_REQUEST");
    call(&server, Method::GET, &login, Value::Null).await.error(404, "NOT_FOUND");
    // It was set while another profile was in force.
    let url = receiver.hook();
    server.records.write(move |change| change.set_hook(UserId(1), url, "x".into(), 0)).await.unwrap().unwrap();
    let pin = server.pin(json!({ "cid": cid(1) })).await;
    server.records.finish(id(&pin), PINNED).await.unwrap();
    let failed = shown(&server, &login, |shown| shown["last"].is_object()).await;
    assert!(failed["last"]["error"].as_str().unwrap().contains("not globally routable"), "{failed}");
    assert_eq!(failed["last"]["status"], Value::Null);
    assert!(receiver.calls.try_recv().is_err());
}

#[tokio::test]
async fn events_survive_a_restart() {
    let server = Server::start().await;
    let mut receiver = Receiver::start(&[503]).await;
    let (_, secret) = set(&server, &receiver.hook()).await;
    let pins = [server.pin(json!({ "cid": cid(1) })).await, server.pin(json!({ "cid": cid(2) })).await];
    for pin in &pins {
        server.records.finish(id(pin), PINNED).await.unwrap();
    }
    let before = receiver.call().await.event(&secret);
    let server = server.restart().await;
    receiver.answer(200);
    let mut told = Vec::new();
    // Tries from before may still come, of the first one only.
    while told.len() < 2 {
        let event = receiver.call().await.event(&secret);
        if event == before {
            told.clear();
        }
        told.push(event);
    }
    let ids = |events: &[Value]| events.iter().map(|event| event["pin"]["requestid"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&told), ids(&pins.map(|pin| json!({ "pin": pin }))));
    let (login, _) = server.login(EMAIL, PASSWORD).await;
    shown(&server, &login, |shown| shown["waiting"] == 0).await;
}

#[tokio::test]
async fn only_the_owner_manages_it_and_it_goes_with_the_account() {
    let server = Server::start().await;
    let mut receiver = Receiver::start(&[200]).await;
    let user = server.account("other@example.org", Role::User).await;
    let (login, _) = server.login("other@example.org", OTHER_PASSWORD).await;
    let url = json!({ "url": receiver.hook() });
    for (method, body) in [(Method::PUT, url.clone()), (Method::GET, Value::Null), (Method::DELETE, Value::Null)] {
        let details = call(&server, method.clone(), &server.token, body.clone()).await.error(403, "FORBIDDEN");
        assert!(details.contains("log in"), "{details}");
        call(&server, method, "none", body).await.error(401, "UNAUTHORIZED");
    }
    for method in [Method::GET, Method::DELETE] {
        call(&server, method, &login, Value::Null).await.error(404, "NOT_FOUND");
    }
    let first = call(&server, Method::PUT, &login, url.clone()).await.ok(200);
    let second = call(&server, Method::PUT, &login, url.clone()).await.ok(200);
    assert_ne!(first["secret"], second["secret"]);
    let (admin, _) = server.login(EMAIL, PASSWORD).await;
    call(&server, Method::GET, &admin, Value::Null).await.error(404, "NOT_FOUND");
    let of_user = server.request(Method::GET, "/api/admin/users/other@example.org/webhook", &admin);
    let of_user = server.send(of_user).await.ok(200);
    assert_eq!((&of_user["url"], &of_user["secret"]), (&url["url"], &Value::Null));

    // Another account's pins are none of its business.
    let theirs = server.pin(json!({ "cid": cid(1) })).await;
    server.records.finish(id(&theirs), PINNED).await.unwrap();
    let request = server.request(Method::POST, "/api/psa/pins", &login).json(&json!({ "cid": cid(2) }));
    let mine = server.send(request).await.ok(202);
    server.records.finish(id(&mine), PINNED).await.unwrap();
    let event = receiver.call().await.event(second["secret"].as_str().unwrap());
    assert_eq!(event["pin"]["requestid"], mine["requestid"]);

    call(&server, Method::DELETE, &login, Value::Null).await.ok(204);
    call(&server, Method::GET, &login, Value::Null).await.error(404, "NOT_FOUND");
    call(&server, Method::PUT, &login, url).await.ok(200);
    let delete = server.request(Method::DELETE, "/api/admin/users/other@example.org", &admin);
    server.send(delete).await.ok(202);
    assert_eq!((server.records.hook(user).unwrap(), server.records.next_notice(user).unwrap()), (None, None));
}
