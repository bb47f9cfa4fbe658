//! `pinnace serve` as a process: what it does when it is told to stop at an awkward moment, and what it says of TLS.

#![cfg(unix)]
// Clippy allows these in test functions only, not in what they share.
#![allow(clippy::unwrap_used)]

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that ends with its test, however that ends.
struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(directory: &Path, variables: &[(&str, &Path)]) -> Serve {
    serve_at(directory, "127.0.0.1:0", variables)
}

fn serve_at(directory: &Path, http: &str, variables: &[(&str, &Path)]) -> Serve {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinnace"));
    command.args(["serve", "--ready-json", "--lan", "--http", http, "--listen", "/ip4/127.0.0.1/tcp/0"]);
    command.arg("--data").arg(directory.join("data")).envs(variables.iter().copied());
    Serve(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

#[test]
fn a_signal_during_the_first_start_does_not_lose_its_secrets() {
    let directory = tempfile::tempdir().unwrap();
    // The start reads the account from this, so it is in the middle until something was written.
    let pipe = directory.path().join("admin");
    run("mkfifo", &[pipe.to_str().unwrap()]);
    let mut serve = serve(directory.path(), &[("PINNACE_AUTH__ADMIN_FILE", &pipe)]);
    let mut admin = OpenOptions::new().write(true).open(&pipe).unwrap();
    run("kill", &["-TERM", &serve.0.id().to_string()]);
    let mut log = BufReader::new(serve.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("SIGTERM before the start was complete") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log ended");
    }
    admin.write_all(b"admin@example.org\na long password\n").unwrap();
    drop(admin);

    let mut shown = String::new();
    serve.0.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(ready["email"], "admin@example.org");
    assert!(ready["token"].is_string());
    log.read_to_string(&mut line).unwrap();
    assert!(serve.0.wait().unwrap().success(), "{line}");
}

/// The line that says that all is serving.
fn ready(serve: &mut Serve) -> serde_json::Value {
    let mut line = String::new();
    BufReader::new(serve.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
}

/// What `pinnace status` warns of that concerns TLS.
fn warnings(directory: &Path) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinnace"));
    let output = command.args(["status", "--json", "--data"]).arg(directory.join("data")).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let warnings = status["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap().to_owned());
    warnings.filter(|warning| warning.contains("TLS") || warning.contains("certificate")).collect()
}

#[test]
fn tokens_in_clear_are_warned_of() {
    for (http, variables, is_warned) in [
        ("0.0.0.0:0", &[][..], true),
        ("0.0.0.0:0", &[("PINNACE_HTTP__TRUSTED_PROXIES", Path::new("192.0.2.1"))][..], false),
        ("127.0.0.1:0", &[][..], false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut serve = serve_at(directory.path(), http, variables);
        assert!(ready(&mut serve)["endpoint"].as_str().unwrap().starts_with("http://127.0.0.1:"));
        let warnings = warnings(directory.path());
        assert_eq!(warnings.iter().any(|warning| warning.contains("in clear")), is_warned, "{http} {warnings:?}");
        run("kill", &["-TERM", &serve.0.id().to_string()]);
        let mut log = String::new();
        serve.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(log.contains("in clear"), is_warned, "{log}");
    }
}

#[test]
fn the_endpoint_tells_of_tls_and_of_the_url_that_is_set() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let pair = rcgen::generate_simple_self_signed(["pins.example.org".to_owned()]).unwrap();
    std::fs::write(path("certificate.pem"), pair.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    let mut variables = vec![
        ("PINNACE_HTTP__TLS", Path::new("files")),
        ("PINNACE_HTTP__TLS_CERTIFICATE", &certificate),
        ("PINNACE_HTTP__TLS_KEY", &key),
    ];
    let mut with_tls = serve_at(directory.path(), "0.0.0.0:0", &variables);
    let endpoint = ready(&mut with_tls)["endpoint"].as_str().unwrap().to_owned();
    assert!(endpoint.starts_with("https://127.0.0.1:"), "{endpoint}");
    assert_eq!(warnings(directory.path()), [""; 0]);
    drop(with_tls);

    variables.push(("PINNACE_HTTP__PUBLIC_URL", Path::new("https://pins.example.org/")));
    let mut with_url = serve(directory.path(), &variables);
    assert_eq!(ready(&mut with_url)["endpoint"], "https://pins.example.org/api/psa/");
    drop(with_url);

    std::fs::write(&key, "hello").unwrap();
    let mut refused = serve(directory.path(), &variables);
    let mut log = String::new();
    refused.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(!refused.0.wait().unwrap().success());
    assert!(log.lines().last().unwrap().starts_with("error: the file of http.tls_key"), "{log}");
}
