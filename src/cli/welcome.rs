//! What `pinnace serve` shows once everything serves. Secrets of the first start appear exactly once: on a terminal, in
//! a file that only the owner can read, or in the line of JSON that a program asked for; never in the log.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;

use serde::Serialize;
use tracing::warn;

use crate::app::{App, AppError, FirstStart, Ready};

/// Why what the start made can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum WelcomeError {
    /// Standard output is closed or full.
    #[error("cannot write to standard output{}", start_over(*first_start))]
    Stdout {
        /// Whether secrets were to be shown.
        first_start: bool,
        /// What the system says.
        source: io::Error,
    },
    /// The file with the secrets can't be written.
    #[error("{source}{}", start_over(true))]
    File {
        /// Why not.
        source: AppError,
    },
}

fn start_over(first_start: bool) -> &'static str {
    if first_start {
        " (the new account's password and token are lost; remove the data directory and start again)"
    } else {
        ""
    }
}

/// The line of `--ready-json`.
#[derive(Debug, Serialize)]
struct ReadyLine<'a> {
    endpoint: &'a str,
    peer_id: &'a str,
    multiaddrs: &'a [String],
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

/// Shows where the service is reached, and on the first start what was generated.
pub(super) fn show(app: &App, ready_json: bool) -> Result<(), WelcomeError> {
    let ready = app.ready();
    let mut text = String::new();
    if ready_json {
        text = ready_line(ready);
    } else if let Some(first_start) = &ready.first_start {
        let secrets = first_start_text(ready, first_start);
        text.push_str(&ready_text(ready));
        if io::stdout().is_terminal() {
            text.push_str(&secrets);
        } else {
            // Nobody looks at standard output, or it ends in some log.
            let text = format!("{}{secrets}", ready_text(ready));
            let path = app.write_first_start(&text).map_err(|source| WelcomeError::File { source })?;
            // A warning, so that it is seen under every usual filter.
            warn!("first start: the new account, its token and how to use it are in {}", path.display());
        }
    } else {
        text.push_str(&ready_text(ready));
    }
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|source| WelcomeError::Stdout { first_start: ready.first_start.is_some(), source })
}

fn ready_line(ready: &Ready) -> String {
    let first_start = ready.first_start.as_ref();
    let line = ReadyLine {
        endpoint: &ready.endpoint,
        peer_id: &ready.peer_id,
        multiaddrs: &ready.multiaddrs,
        pid: ready.pid,
        metrics: ready.metrics.as_deref(),
        email: first_start.map(|first| first.email.as_str()),
        password: first_start.and_then(|first| first.password.as_deref()),
        token: first_start.map(|first| first.token.as_str()),
    };
    let mut text = serde_json::json!(line).to_string();
    text.push('\n');
    text
}

fn ready_text(ready: &Ready) -> String {
    let mut text = format!("pinnace is ready.\n\n  endpoint    {}\n", ready.endpoint);
    for (index, multiaddr) in ready.multiaddrs.iter().enumerate() {
        let label = if index == 0 { "multiaddrs" } else { "          " };
        text.extend(["  ", label, "  ", multiaddr, "\n"]);
    }
    if let Some(metrics) = &ready.metrics {
        text.extend(["  metrics     ", metrics, "\n"]);
    }
    text.push('\n');
    text
}

fn first_start_text(ready: &Ready, first_start: &FirstStart) -> String {
    let FirstStart { email, password, token } = first_start;
    let password = password.as_deref().unwrap_or("(as configured)");
    format!(
        "This is the first start. An admin account was made; its secrets are shown only now:\n\n  \
         e-mail      {email}\n  \
         password    {password}\n  \
         token       {token}\n\n\
         Where your IPFS node runs, paste:\n\n\
         ipfs pin remote service add pinnace {} {token}\n\n{}",
        ready.endpoint,
        tunnel_text(&ready.endpoint).unwrap_or_default()
    )
}

/// How to get to an endpoint that only this machine reaches.
fn tunnel_text(endpoint: &str) -> Option<String> {
    let address: SocketAddr = endpoint.strip_prefix("http://")?.split('/').next()?.parse().ok()?;
    address.ip().is_loopback().then(|| {
        format!(
            "If that is another machine, open a way to this endpoint first, and leave it open:\n\n\
             ssh -N -L {}:{address} USER@THIS-MACHINE\n\n",
            address.port()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(first_start: Option<FirstStart>) -> Ready {
        Ready {
            endpoint: "http://127.0.0.1:4080/api/psa/".to_owned(),
            peer_id: "12D3KooWExample".to_owned(),
            multiaddrs: vec![
                "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWExample".to_owned(),
                "/ip6/::1/tcp/1/p2p/12D3".to_owned(),
            ],
            pid: 7,
            metrics: None,
            first_start,
        }
    }

    fn first_start() -> FirstStart {
        FirstStart {
            email: "admin@pinnace.example".to_owned(),
            password: Some("secret-password".to_owned()),
            token: "secret-token".to_owned(),
        }
    }

    #[test]
    fn the_first_start_has_the_line_to_paste() {
        let text = first_start_text(&ready(Some(first_start())), &first_start());
        assert!(
            text.lines()
                .any(|line| line == "ipfs pin remote service add pinnace http://127.0.0.1:4080/api/psa/ secret-token"),
            "{text}"
        );
        assert!(text.contains("admin@pinnace.example") && text.contains("secret-password"), "{text}");
        let configured = FirstStart { password: None, ..first_start() };
        assert!(first_start_text(&ready(None), &configured).contains("(as configured)"));
    }

    #[test]
    fn the_way_from_another_machine_is_told_where_there_is_none() {
        let text = first_start_text(&ready(Some(first_start())), &first_start());
        assert!(text.lines().any(|line| line == "ssh -N -L 4080:127.0.0.1:4080 USER@THIS-MACHINE"), "{text}");
        let open = Ready { endpoint: "http://203.0.113.7:4080/api/psa/".to_owned(), ..ready(None) };
        assert!(!first_start_text(&open, &first_start()).contains("ssh"));
    }

    #[test]
    fn what_every_start_shows_has_no_secret() {
        let text = ready_text(&ready(Some(first_start())));
        assert!(text.contains("http://127.0.0.1:4080/api/psa/"), "{text}");
        assert!(text.contains("/ip4/127.0.0.1/tcp/1/p2p/12D3KooWExample") && text.contains("/ip6/::1/tcp/1"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn the_line_of_json_is_flat_and_has_secrets_only_at_the_first_start() {
        let first = ready_line(&ready(Some(first_start())));
        assert_eq!(first.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "endpoint": "http://127.0.0.1:4080/api/psa/",
                "peer_id": "12D3KooWExample",
                "multiaddrs": ["/ip4/127.0.0.1/tcp/1/p2p/12D3KooWExample", "/ip6/::1/tcp/1/p2p/12D3"],
                "pid": 7,
                "email": "admin@pinnace.example",
                "password": "secret-password",
                "token": "secret-token",
            })
        );
        let later: serde_json::Value = serde_json::from_str(&ready_line(&ready(None))).unwrap();
        let keys = later.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys, ["endpoint", "multiaddrs", "peer_id", "pid"]);
    }
}
