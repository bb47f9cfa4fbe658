//! Who is believed about where a request comes from.

use serde_json::json;

use crate::support::{EMAIL, Server};

/// The status of a login that must fail, sent with headers of a proxy.
async fn fail_login(server: &Server, headers: &[(&str, &str)]) -> u16 {
    let body = json!({ "email": EMAIL, "password": "wrong password" });
    let mut request = server.client.post(format!("{}/api/auth/login", server.url)).json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request).await.status.as_u16()
}

/// Uses up what fails without a wait.
async fn use_up(server: &Server, headers: &[(&str, &str)]) {
    for _ in 0..10 {
        assert_eq!(fail_login(server, headers).await, 401);
    }
    assert_eq!(fail_login(server, headers).await, 429);
}

#[tokio::test]
async fn a_trusted_proxy_tells_clients_apart() {
    let server = Server::start_behind("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.1\"]").await;
    use_up(&server, &[("x-forwarded-for", "203.0.113.1")]).await;
    // What is left of the client's address is the client's own word; what is right of it are proxies.
    assert_eq!(fail_login(&server, &[("x-forwarded-for", "203.0.113.2, 203.0.113.1, 10.0.0.1")]).await, 429);
    assert_eq!(fail_login(&server, &[("forwarded", "for=\"203.0.113.1:1234\";proto=https")]).await, 429);
    assert_eq!(fail_login(&server, &[("x-forwarded-for", "203.0.113.2")]).await, 401);
    assert_eq!(fail_login(&server, &[]).await, 401);
}

#[tokio::test]
async fn headers_of_anyone_else_are_ignored() {
    for section in ["", "trusted_proxies = [\"10.0.0.0/8\", \"::1\"]"] {
        let server = Server::start_behind(section).await;
        use_up(&server, &[("x-forwarded-for", "203.0.113.1")]).await;
        for header in ["x-forwarded-for", "x-real-ip", "true-client-ip"] {
            assert_eq!(fail_login(&server, &[(header, "203.0.113.2")]).await, 429, "{header} {section}");
        }
        assert_eq!(fail_login(&server, &[("forwarded", "for=203.0.113.2")]).await, 429, "{section}");
    }
}
