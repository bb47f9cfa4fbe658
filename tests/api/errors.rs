//! Every failure has the one shape, on every path and for every method.

use reqwest::Method;
use serde_json::json;

use crate::support::{Server, cid};

const PATHS: [(&str, &str); 7] = [
    ("/healthz", "GET,HEAD"),
    ("/api/psa/pins", "GET,HEAD,POST"),
    ("/api/psa/pins/0190a7a1-0000-7000-8000-000000000000", "GET,HEAD,POST,DELETE"),
    ("/api/auth/login", "POST"),
    ("/api/auth/refresh", "POST"),
    ("/api/auth/logout", "POST"),
    ("/api/auth/me", "GET,HEAD"),
];

#[tokio::test]
async fn unknown_paths_are_not_found_for_every_method() {
    let server = Server::start().await;
    for path in ["/", "/api", "/api/psa", "/api/psa/pins/a/b", "/api/auth", "/api/v1/pins", "/%ff"] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            server.send(server.request(method, path, &server.token)).await.error(404, "NOT_FOUND");
        }
    }
}

#[tokio::test]
async fn unknown_methods_say_which_are_known() {
    let server = Server::start().await;
    for (path, allowed) in PATHS {
        for method in ["PUT", "PATCH", "TRACE", "WHATEVER"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = server.send(server.request(method, path, &server.token)).await;
            assert_eq!(answer.headers["allow"], allowed, "{path}");
            answer.error(405, "METHOD_NOT_ALLOWED");
        }
    }
}

#[tokio::test]
async fn every_path_but_those_to_log_in_needs_a_token() {
    let server = Server::start().await;
    for (path, allowed) in PATHS {
        if ["/healthz", "/api/auth/login", "/api/auth/refresh"].contains(&path) {
            continue;
        }
        for method in allowed.split(',').filter(|method| *method != "HEAD") {
            let request = server.client.request(method.parse().unwrap(), format!("{}{path}", server.url));
            server.send(request.json(&json!({ "cid": cid(0) }))).await.error(401, "UNAUTHORIZED");
        }
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error_that_tells_nothing() {
    let server = Server::start().await;
    let body = json!({ "cid": cid(0), "origins": ["/panic"] });
    let details = server.post("/api/psa/pins", body).await.error(500, "INTERNAL_SERVER_ERROR");
    assert!(!details.contains("panic"), "{details}");
    server.get("/api/psa/pins").await.ok(200);
}

#[tokio::test]
async fn a_failing_store_is_an_internal_error_that_tells_nothing() {
    let server = Server::start().await;
    server.records.close();
    let details = server.post("/api/psa/pins", json!({ "cid": cid(0) })).await.error(500, "INTERNAL_SERVER_ERROR");
    assert!(!details.contains("records"), "{details}");
}
