//! `pinnace serve` as a process: what it does when it is told to stop at an awkward moment.

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
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinnace"));
    command.args(["serve", "--ready-json", "--lan", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"]);
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
