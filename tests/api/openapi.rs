//! The description of the API: that it says what is served, and that nobody changes it by accident.

use std::collections::BTreeSet;
use std::path::Path;

use reqwest::Method;
use serde_json::Value;

use crate::support::Server;

/// The description as it was when somebody looked at it last; `UPDATE_SNAPSHOTS=1 cargo test --test api openapi` writes it anew.
const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/openapi.json");

fn document() -> Value {
    serde_json::from_slice(&pinnace::http::document()).unwrap()
}

#[tokio::test]
async fn the_description_is_the_one_that_was_looked_at_last() {
    let mut served = Server::start().await.get("/api/openapi.json").await.ok(200);
    assert_eq!(served["info"]["version"], env!("CARGO_PKG_VERSION"));
    served["info"]["version"] = "any".into();
    let text = format!("{served:#}\n");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(SNAPSHOT, &text).unwrap();
    }
    let snapshot = std::fs::read_to_string(Path::new(SNAPSHOT)).unwrap();
    assert!(text == snapshot, "the description has changed: look at it, and write it anew with UPDATE_SNAPSHOTS=1");
}

/// Every `$ref` below a value.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => drop(found.insert(target.clone())),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for target in &found {
        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target} leads nowhere");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(found.contains(&format!("#/components/schemas/{name}")), "nothing uses {name}");
    }
}

#[tokio::test]
async fn every_operation_is_served_and_asks_for_a_token_where_it_says_so() {
    let server = Server::start().await;
    let document = document();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let url = format!("{}{}", server.url, path.replace(['{', '}'], ""));
            let answer = server.send(server.client.request(method, &url)).await;
            match operation.get("security") {
                Some(_) => drop(answer.error(401, "UNAUTHORIZED")),
                None => drop(answer.error(400, "BAD_REQUEST")),
            }
            assert!(operation["responses"]["4XX"].is_object(), "{path}");
            assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{path}");
            operations += 1;
        }
    }
    assert!(operations > 20);
}

#[tokio::test]
async fn the_page_has_all_its_parts_here() {
    let server = Server::start().await;
    let get = async |path: &str| {
        let answer = server.client.get(format!("{}{path}", server.url)).send().await.unwrap();
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), content_type, answer.text().await.unwrap())
    };
    // Also with the slash that people type.
    for path in ["/api/docs", "/api/docs/"] {
        let (status, content_type, page) = get(path).await;
        assert_eq!((status, content_type.as_str()), (200, "text/html"));
        let parts =
            page.split(['"']).filter_map(|part| part.strip_prefix("./").or((part == "index.css").then_some(part)));
        let parts: Vec<String> = parts.map(str::to_owned).collect();
        assert!(parts.len() > 4, "{page}");
        for part in parts {
            assert_eq!(get(&format!("/api/docs/{part}")).await.0, 200, "{part}");
        }
    }
    assert!(get("/api/docs/swagger-initializer.js").await.2.contains("/api/openapi.json"));
    server.get("/api/docs/nothing.js").await.error(404, "NOT_FOUND");
}
