//! The commands for a running process, each as a real process against a real `pinnace serve`.
#![cfg(unix)]
// Clippy allows these in test functions only, not in what they share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pinnace::model::Block;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a pin may take to fail.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// No DAG-CBOR, inside an identity CID (codec 0x71, hash 0x00, the one byte 0xff): nobody has to have it for it to fail.
const INVALID: &str = "f01710001ff";

fn pinnace(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinnace"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PINNACE_")) {
        command.env_remove(name);
    }
    // None of them looks at a certificate, so a machine without any must do.
    command.env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
    command.args(arguments);
    command
}

/// A running `pinnace serve`; one that is dropped is killed.
struct Daemon {
    child: Child,
    ready: Value,
    data: PathBuf,
}

impl Daemon {
    fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    fn start_with(data: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command =
            pinnace(&["serve", "--ready-json", "--stop-at-eof", "--lan", "--http", "127.0.0.1:0", "--data"]);
        command.arg(data).args(["--listen", "/ip4/127.0.0.1/tcp/0"]).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(fs::File::create(data.with_extension("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, ready, data: data.to_owned() }
    }

    /// Stops in order, and gives the log.
    fn stop(mut self) -> String {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
        fs::read_to_string(self.data.with_extension("log")).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(arguments, &self.data)
    }

    /// The JSON of a command that succeeds.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&stdout(&self.run(&[arguments, &["--json"]].concat()))).unwrap()
    }

    /// Asks the API for a pin, and returns its id.
    async fn pin(&self, cid: &str, name: &str) -> String {
        self.pin_with(json!({ "cid": cid, "name": name })).await["requestid"].as_str().unwrap().to_owned()
    }

    /// Asks the API for a pin, and returns its status.
    async fn pin_with(&self, body: Value) -> Value {
        let url = format!("{}pins", self.ready["endpoint"].as_str().unwrap());
        let request = reqwest::Client::builder().no_proxy().build().unwrap().request(Method::POST, url);
        let request = request.bearer_auth(self.ready["token"].as_str().unwrap());
        let answer = request.json(&body).send().await.unwrap();
        answer.error_for_status().unwrap().json().await.unwrap()
    }

    /// Waits until the pin has failed, and shows it.
    #[track_caller]
    fn failed(&self, id: &str) -> Value {
        let start = Instant::now();
        loop {
            let pin = self.json(&["pin", "show", id]);
            if pin["status"] == "failed" {
                return pin;
            }
            assert!(start.elapsed() < WAIT_MAX, "{pin}");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail for a process that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str], data: &Path) -> Output {
    pinnace(arguments).arg("--data").arg(data).output().unwrap()
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line of a command that fails.
#[track_caller]
fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    (directory, data)
}

/// A CID of content that nobody has.
fn absent(number: usize) -> String {
    Block::new_sha256(0x55, format!("absent {number}").into()).unwrap().cid().to_string()
}

#[tokio::test]
async fn status_shows_what_is_true() {
    let (_directory, data) = directory();
    let daemon = Daemon::start(&data);
    daemon.pin(&absent(0), "").await;
    let id = daemon.pin(INVALID, "").await;
    daemon.failed(&id);

    let status = daemon.json(&["status"]);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], daemon.child.id());
    assert_eq!(status["data"], data.to_str().unwrap());
    assert_eq!(status["profile"], "lan");
    for (key, ready) in [("peer_id", "peer_id"), ("endpoint", "endpoint")] {
        assert_eq!(status[key], daemon.ready[ready]);
    }
    assert_eq!(status["addresses"]["announced"], daemon.ready["multiaddrs"]);
    let listening = status["addresses"]["listening"][0].as_str().unwrap();
    assert!(daemon.ready["multiaddrs"][0].as_str().unwrap().starts_with(listening), "{listening}");
    assert_eq!((&status["peers"], &status["connections"]), (&json!(0), &json!(0)));
    let pins = &status["pins"];
    assert_eq!(pins["queued"].as_u64().unwrap() + pins["pinning"].as_u64().unwrap(), 1, "{pins}");
    assert_eq!((&pins["pinned"], &pins["failed"]), (&json!(0), &json!(1)));
    assert_eq!(status["store"]["blocks"], 0);
    for (key, file) in [("blocks_bytes_on_disk", "blocks.redb"), ("records_bytes_on_disk", "records.redb")] {
        let bytes = status["store"][key].as_u64().unwrap();
        let length = fs::metadata(data.join(file)).unwrap().len();
        assert!(bytes > 0 && bytes <= length.next_multiple_of(1 << 20), "{key}: {bytes} of {length}");
    }
    let warnings = status["warnings"].as_array().unwrap();
    let last_resort = status["addresses"]["last_resort"].as_bool().unwrap();
    assert_eq!(warnings.iter().any(|text| text.as_str().unwrap().contains("--external")), last_resort);

    let text = stdout(&daemon.run(&["status"]));
    let peer_id = daemon.ready["peer_id"].as_str().unwrap();
    for part in [data.to_str().unwrap(), peer_id, "0 pinned, 1 failed", &format!("process {}", daemon.child.id())] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test]
async fn pins_are_listed_shown_tried_again_and_removed() {
    let (_directory, data) = directory();
    let daemon = Daemon::start(&data);
    assert_eq!(stdout(&daemon.run(&["pin", "list"])), "there are no such pins\n");
    let broken = daemon.pin(INVALID, "broken").await;
    let failed = daemon.failed(&broken);
    let first = daemon.pin(&absent(0), "first").await;
    let second = daemon.pin(&absent(1), "second").await;

    // Show.
    assert_eq!((&failed["cid"], &failed["name"]), (&json!(INVALID), &json!("broken")));
    assert_eq!(failed["account"], daemon.ready["email"]);
    assert_eq!(failed["info"]["failure"], "block_invalid");
    let details = failed["info"]["status_details"].as_str().unwrap();
    assert!(stdout(&daemon.run(&["pin", "show", &broken])).contains(details));

    // List: the failed pin, although the oldest, comes after the unfinished ones.
    let ids = |list: &Value| -> Vec<String> {
        list["pins"].as_array().unwrap().iter().map(|pin| pin["id"].as_str().unwrap().to_owned()).collect()
    };
    let list = daemon.json(&["pin", "list"]);
    assert_eq!((ids(&list), &list["more"]), (vec![second.clone(), first.clone(), broken.clone()], &json!(false)));
    assert_eq!(ids(&daemon.json(&["pin", "list", "--status", "failed,pinned"])), std::slice::from_ref(&broken));
    assert!(ids(&daemon.json(&["pin", "list", "--status", "pinned"])).is_empty());
    let page = daemon.json(&["pin", "list", "--limit", "2"]);
    assert_eq!((ids(&page), &page["more"]), (vec![second.clone(), first.clone()], &json!(true)));
    let text = stdout(&daemon.run(&["pin", "list"]));
    let lines: Vec<&str> = text.lines().collect();
    let [.., broken_line, sentence] = lines.as_slice() else { panic!("{text}") };
    assert!(broken_line.starts_with(&broken) && broken_line.contains("failed"), "{text}");
    assert_eq!(sentence.trim_start(), details);

    // Try again: only the failed one, and it fails again, as it must.
    let text = stdout(&daemon.run(&["pin", "retry", &broken]));
    assert!(text.contains(&broken), "{text}");
    let again = daemon.failed(&broken);
    assert_eq!(again, failed);
    let refused = error(&daemon.run(&["pin", "retry", &first]));
    assert!(refused.contains("only failed pins"), "{refused}");

    // Remove.
    assert!(stdout(&daemon.run(&["pin", "remove", &broken])).contains(&broken));
    assert!(stdout(&daemon.run(&["pin", "remove", &first])).contains(&first));
    for command in ["show", "retry", "remove"] {
        let gone = error(&daemon.run(&["pin", command, &first]));
        assert!(gone.contains(&format!("there is no pin {first}")), "{gone}");
    }
    assert_eq!(ids(&daemon.json(&["pin", "list"])), [second]);
    let pins = &daemon.json(&["status"])["pins"];
    assert_eq!((pins["queued"].as_u64().unwrap() + pins["pinning"].as_u64().unwrap(), &pins["failed"]), (1, &json!(0)));
    let log = daemon.stop();
    assert_eq!(log.matches("a pin failed").count(), 2, "{log}");
}

#[tokio::test]
async fn pins_last_as_long_as_the_configuration_says_unless_their_clients_do() {
    let (_directory, data) = directory();
    let daemon = Daemon::start_with(&data, &[("PINNACE_PINS__LIFETIME", "5s")]);
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let stays =
        daemon.pin_with(json!({ "cid": absent(0), "meta": { "pinnace.expires_at": "2999-01-01T00:00:00Z" } })).await;
    let goes = daemon.pin_with(json!({ "cid": absent(1) })).await;
    assert_eq!(stays["info"]["pinned_until"], "2999-01-01T00:00:00.000Z");
    // The one is told from when the request is read, the other from when the record is made.
    let lasts = time(&goes["info"]["pinned_until"]) - time(&goes["created"]);
    assert!((1..=5000).contains(&lasts), "{goes}");
    let (stays, goes) = (stays["requestid"].as_str().unwrap(), goes["requestid"].as_str().unwrap());
    let start = Instant::now();
    let gone = loop {
        let shown = daemon.run(&["pin", "show", goes]);
        if !shown.status.success() {
            break error(&shown);
        }
        assert!(start.elapsed() < WAIT_MAX, "{shown:?}");
    };
    assert!(gone.contains(&format!("there is no pin {goes}")), "{gone}");
    assert_eq!(daemon.json(&["pin", "show", stays])["id"], stays);
    let log = daemon.stop();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("its time has come")).collect();
    assert!(matches!(lines.as_slice(), [line] if line.contains(goes)), "{log}");
}

#[test]
fn gc_answers_when_it_is_done() {
    let (_directory, data) = directory();
    let daemon = Daemon::start(&data);
    let answer = daemon.json(&["gc"]);
    assert_eq!(
        (&answer["running"], &answer["phase"], &answer["removed_blocks"]),
        (&json!(false), &json!("done"), &json!(0))
    );
    assert_eq!(stdout(&daemon.run(&["gc"])), "removed 0 blocks with 0 B; kept 0 blocks\n");
}

#[test]
fn verify_answers_when_it_is_done() {
    let (_directory, data) = directory();
    let daemon = Daemon::start(&data);
    let answer = daemon.json(&["verify", "--repair"]);
    for (key, value) in [("running", json!(false)), ("repair", json!(true)), ("blocks", json!(0)), ("pins", json!([]))]
    {
        assert_eq!(answer[key], value, "{answer}");
    }
    let expected = "verified 0 blocks with 0 B: each is what its hash says\n";
    assert_eq!(stdout(&daemon.run(&["verify", "--rate", "1KiB"])), expected);
    let status = daemon.json(&["status"]);
    assert!(status["verification"]["finished"].is_string(), "{status}");
    assert!(stdout(&daemon.run(&["status"])).contains("verified"));
    daemon.stop();
    // Without a running service it works on the data directory itself, if there is one.
    assert_eq!(stdout(&run(&["verify"], &data)), expected);
    let text = error(&run(&["verify"], &data.with_file_name("missing")));
    assert!(text.contains("which does not exist"), "{text}");
}

#[test]
fn the_file_of_the_blocks_is_compacted_only_while_nobody_has_it() {
    let (_directory, data) = directory();
    let compact = ["gc", "--compact"];
    assert!(error(&run(&compact, &data)).contains("is no data directory"));
    let daemon = Daemon::start(&data);
    let refused = error(&daemon.run(&compact));
    assert!(refused.contains("in use") && refused.contains("stop that one first"), "{refused}");
    daemon.stop();
    let result: Value = serde_json::from_str(&stdout(&run(&["gc", "--compact", "--json"], &data))).unwrap();
    let length = fs::metadata(data.join("blocks.redb")).unwrap().len();
    assert_eq!((&result["bytes_after"], &result["blocks"]), (&json!(length), &json!(0)));
    assert!(stdout(&run(&compact, &data)).contains("holds 0 blocks"));
    assert_eq!(Daemon::start(&data).json(&["status"])["store"]["blocks"], 0);
}

/// A CAR file of version 1 with a root, two leaves, and the root's CID.
fn car() -> (Vec<u8>, String) {
    let leaves: Vec<Block> =
        ["left", "right"].map(|text| Block::new_sha256(0x55, text.repeat(50_000).into()).unwrap()).to_vec();
    let cids: Vec<_> = leaves.iter().map(|leaf| *leaf.cid()).collect();
    let root = Block::new_sha256(0x71, serde_ipld_dagcbor::to_vec(&cids).unwrap().into()).unwrap();
    let mut file = pinnace::car::header(&[*root.cid()]);
    for block in [&root, &leaves[0], &leaves[1]] {
        file.extend(pinnace::car::section(block.cid(), block.data()));
    }
    (file, root.cid().to_string())
}

/// Runs with that as standard input.
fn run_with_input(arguments: &[&str], data: &Path, input: &[u8]) -> Output {
    let mut child = pinnace(arguments)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn a_car_file_is_imported_pinned_and_exported_also_while_nothing_runs() {
    let (directory, data) = directory();
    let (file, root) = car();
    let path = directory.path().join("dag.car");
    fs::write(&path, &file).unwrap();
    let path = path.to_str().unwrap();
    let daemon = Daemon::start(&data);

    let result = daemon.json(&["import", path, "--name", "from a file"]);
    assert_eq!((&result["blocks"], &result["held_blocks"]), (&json!(3), &json!(0)));
    assert_eq!(result["pins"][0]["cid"], root);
    let id = result["pins"][0]["id"].as_str().unwrap();
    let start = Instant::now();
    let pin = loop {
        let pin = daemon.json(&["pin", "show", id]);
        if pin["status"] == "pinned" {
            break pin;
        }
        assert!(start.elapsed() < WAIT_MAX, "{pin}");
    };
    assert_eq!((&pin["name"], &pin["account"]), (&json!("from a file"), &daemon.ready["email"]));
    daemon.json(&["gc"]);
    let email = daemon.ready["email"].as_str().unwrap().to_uppercase();
    let output = run_with_input(&["import", "-", "--json", "--user", &email], &data, &file);
    assert_eq!(serde_json::from_str::<Value>(&stdout(&output)).unwrap()["held_blocks"], 3);

    let out = directory.path().join("out.car");
    let export = ["export", &root, "-o", out.to_str().unwrap()];
    assert!(stdout(&daemon.run(&export)).contains("wrote"));
    assert_eq!(fs::read(&out).unwrap(), file);
    assert_eq!(daemon.run(&["export", &root]).stdout, file);

    // What is missing is named, and what was there stays as it was.
    let missing = error(&daemon.run(&["export", &absent(0), "-o", out.to_str().unwrap()]));
    assert!(missing.contains(&absent(0)) && missing.contains("missing"), "{missing}");
    assert_eq!(fs::read(&out).unwrap(), file);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4, "data, its log, and two files");

    // Files that are wrong, with the sentence of the running process.
    let mut wrong = file.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let refused = error(&run_with_input(&["import", "-"], &data, &wrong));
    assert!(refused.contains("does not match") && refused.contains("at byte"), "{refused}");
    let refused = error(&run_with_input(&["import", "-"], &data, &file[..file.len() - 1]));
    assert!(refused.contains("ends early"), "{refused}");
    let large = [&b"no car file"[..], &vec![0; 20 << 20]].concat();
    let refused = error(&run_with_input(&["import", "-"], &data, &large));
    assert!(refused.contains("CAR file"), "{refused}");
    let rootless = [&pinnace::car::header(&[])[..], &file[pinnace::car::header(&[]).len()..]].concat();
    error(&run_with_input(&["import", "-"], &data, &rootless));
    let refused = error(&run_with_input(&["import", "-"], &data, &pinnace::car::header(&[])));
    assert!(refused.contains("--root"), "{refused}");
    let refused = error(&daemon.run(&["import", path, "--user", "nobody@example.org"]));
    assert!(refused.contains("nobody@example.org"), "{refused}");
    assert_eq!(daemon.json(&["pin", "list"])["pins"].as_array().unwrap().len(), 2);
    daemon.stop();

    // The same without a process.
    assert_eq!(run(&["export", &root], &data).stdout, file);
    let result: Value = serde_json::from_str(&stdout(&run(&["import", path, "--json"], &data))).unwrap();
    assert_eq!((&result["held_blocks"], &result["pins"][0]["cid"]), (&json!(3), &json!(root)));
    assert!(error(&run(&["export", &absent(0)], &data)).contains(&absent(0)));
    let daemon = Daemon::start(&data);
    let id = result["pins"][0]["id"].as_str().unwrap();
    let start = Instant::now();
    while daemon.json(&["pin", "show", id])["status"] != "pinned" {
        assert!(start.elapsed() < WAIT_MAX, "the pin of an import without a process");
    }
    daemon.stop();
}

#[test]
fn without_a_daemon_one_line_says_how_to_start_it() {
    let (_directory, data) = directory();
    for arguments in [&["status"][..], &["status", "--json"], &["pin", "list"]] {
        let text = error(&run(arguments, &data));
        let start = format!("`pinnace serve --data {}`", data.display());
        assert!(text.contains("no pinnace is running") && text.contains(&start), "{text}");
        assert!(!data.exists(), "a question made the directory");
    }
    // The directory may come from the configuration, as for serve.
    let config = data.with_extension("toml");
    fs::write(&config, format!("data = {:?}", data.to_str().unwrap())).unwrap();
    let output = pinnace(&["status", "--config"]).arg(&config).output().unwrap();
    let text = error(&output);
    assert!(text.contains(data.to_str().unwrap()), "{text}");
    assert!(text.contains(&format!("`pinnace serve --config {}`", config.display())), "{text}");
}

#[test]
fn the_socket_is_private_goes_with_an_orderly_stop_and_is_replaced_after_a_kill() {
    let (_directory, data) = directory();
    let socket = data.join("admin.sock");
    let daemon = Daemon::start(&data);
    let metadata = fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);

    // A second one is refused, and leaves the first one's socket alone.
    let mut second = pinnace(&["serve", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0", "--data"]);
    let refused = second.arg(&data).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(daemon.json(&["status"])["pid"], daemon.child.id());

    daemon.stop();
    assert!(!socket.exists());
    assert!(error(&run(&["status"], &data)).contains("no pinnace is running"));

    let mut killed = Daemon::start(&data);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert!(socket.exists(), "a killed process can't have removed it");
    assert!(error(&run(&["status"], &data)).contains("no pinnace is running"));

    let daemon = Daemon::start(&data);
    assert_eq!(daemon.json(&["status"])["pid"], daemon.child.id());
    daemon.stop();
    assert!(!socket.exists());
}

#[test]
fn a_path_too_long_for_a_socket_costs_the_commands_and_nothing_else() {
    let (_directory, data) = directory();
    let data = data.with_file_name("x".repeat(120));
    let daemon = Daemon::start(&data);
    let text = error(&daemon.run(&["status"]));
    assert!(text.contains("shorter path"), "{text}");
    let log = daemon.stop();
    assert!(log.contains("can't reach this process"), "{log}");
}

/// Tells a status by the API that an account's token gets.
async fn status_of(daemon: &Daemon, token: &str) -> u16 {
    let url = format!("{}pins", daemon.ready["endpoint"].as_str().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn accounts_and_tokens_are_managed_while_it_runs() {
    let (_directory, data) = directory();
    let daemon = Daemon::start(&data);
    let first = daemon.ready["email"].as_str().unwrap().to_owned();
    let add = run_with_input(&["user", "add", "a@example.org", "--pins", "2"], &data, b"a good password\n");
    assert_eq!(stdout(&add), "a@example.org has an account now\n");
    let again = run_with_input(&["user", "add", "a@example.org"], &data, b"a good password\n");
    assert!(error(&again).contains("already"), "{again:?}");
    assert!(error(&run_with_input(&["user", "add", "b@example.org"], &data, b"\n")).contains("password"));
    let users = daemon.json(&["user", "list"]);
    assert_eq!(users.as_array().unwrap().len(), 2);
    assert_eq!((&users[1]["email"], &users[1]["quota"]), (&json!("a@example.org"), &json!({ "pins": 2 })));
    let lifetime =
        |arguments: &[&str]| stdout(&daemon.run(&[&["user", "lifetime", "a@example.org"], arguments].concat()));
    assert!(lifetime(&[]).contains("pins.lifetime"));
    assert_eq!(lifetime(&["30d"]), "pins last 30 d, unless their clients say\n");
    assert!(lifetime(&["none"]).contains("for ever"));
    assert!(lifetime(&["default"]).contains("pins.lifetime"));
    let webhook = |arguments: &[&str]| daemon.run(&[&["user", "webhook", "a@example.org"], arguments].concat());
    assert!(error(&webhook(&[])).contains("no webhook"));
    assert!(error(&webhook(&["ftp://example.org"])).contains("https://"));
    let set = stdout(&webhook(&["http://127.0.0.1:9/hook"]));
    let secret = set.lines().nth(1).unwrap();
    assert!(secret.starts_with("whsec_") && set.contains("only now"), "{set}");
    let shown = stdout(&webhook(&[]));
    assert!(shown.contains("http://127.0.0.1:9/hook") && !shown.contains(secret), "{shown}");
    assert!(stdout(&webhook(&["none"])).contains("no webhook any more"));
    let listed = stdout(&daemon.run(&["user", "list"]));
    let columns: Vec<&str> = listed.lines().nth(2).unwrap().split_whitespace().take(3).collect();
    assert_eq!(columns, ["a@example.org", "user", "active"]);

    let token = stdout(&daemon.run(&["token", "create", "laptop", "--user", "a@example.org", "--scope", "read"]));
    let token = token.trim_end();
    assert_eq!(status_of(&daemon, token).await, 200);
    let tokens = daemon.json(&["token", "list", "--user", "a@example.org"]);
    assert_eq!((&tokens["tokens"][0]["name"], &tokens["tokens"][0]["scopes"]), (&json!("laptop"), &json!(["read"])));
    stdout(&daemon.run(&["user", "disable", "a@example.org"]));
    assert_eq!(status_of(&daemon, token).await, 401);
    stdout(&daemon.run(&["user", "enable", "a@example.org"]));
    assert_eq!(status_of(&daemon, token).await, 200);
    stdout(&daemon.run(&["token", "revoke", tokens["tokens"][0]["id"].as_str().unwrap()]));
    assert_eq!(status_of(&daemon, token).await, 401);
    // Without a name the account that was made first is meant.
    assert_eq!(daemon.json(&["token", "list"])["tokens"][0]["name"], "first start");

    let quota = stdout(&daemon.run(&["user", "quota", "a@example.org", "--bytes", "1GiB", "--pins", "default"]));
    assert_eq!(quota, "bytes  0 B of 1.0 GiB\npins   0 of no bound\n");
    let changed = run_with_input(&["user", "password", "a@example.org"], &data, b"a better password\r\n");
    assert!(stdout(&changed).contains("has a new password"));
    assert!(error(&run_with_input(&["user", "password", "nobody@example.org"], &data, b"x\n")).contains("no account"));
    assert_eq!(daemon.json(&["user", "role", "a@example.org", "admin"])["role"], "admin");
    assert!(error(&daemon.run(&["user", "delete", &first])).contains("--yes"));

    let pin = daemon.json(&["pin", "add", &absent(1), "--user", "a@example.org", "--name", "n", "--meta", "a=b"]);
    assert_eq!((&pin["account"], &pin["meta"]), (&json!("a@example.org"), &json!({ "a": "b" })));
    stdout(&daemon.run(&["user", "delete", "a@example.org", "--yes"]));
    let gone = Instant::now() + WAIT_MAX;
    while daemon.json(&["user", "list"]).as_array().unwrap().len() > 1 {
        assert!(Instant::now() < gone, "the account stays");
    }
    assert_eq!(daemon.json(&["pin", "list"])["pins"], json!([]));

    let of_first = daemon.ready["token"].as_str().unwrap();
    let rotated = stdout(&daemon.run(&["key", "rotate"]));
    assert!(rotated.contains("stay valid"), "{rotated}");
    assert_eq!(status_of(&daemon, of_first).await, 200);
    assert_eq!(daemon.json(&["key", "rotate", "--forget-old"])["forgotten"], 2);
    assert_eq!(status_of(&daemon, of_first).await, 401);
    daemon.stop();
}

#[tokio::test]
async fn accounts_tokens_and_pins_are_managed_while_nothing_runs() {
    let (_directory, data) = directory();
    Daemon::start(&data).stop();
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&stdout(&run(&[arguments, &["--json"]].concat(), &data))).unwrap()
    };
    stdout(&run_with_input(&["user", "add", "a@example.org", "--admin"], &data, b"a good password\n"));
    let token = json(&["token", "create", "ci", "--user", "a@example.org"]);
    let peer = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWSdmMKGZbwDFp6W6kTiYShKDsSMBbmAMz9p3ye9QXjbHU";
    let pin = json(&["pin", "add", INVALID, "--user", "a@example.org", "--origin", peer, "--origin", "nowhere"]);
    assert_eq!((&pin["status"], &pin["origins"]), (&json!("queued"), &json!([peer])));
    assert!(pin["info"]["origins_skipped"].as_str().unwrap().contains("nowhere"));
    let id = pin["id"].as_str().unwrap();
    assert_eq!(json(&["pin", "show", id])["cid"], INVALID);
    assert_eq!(json(&["pin", "list"])["pins"].as_array().unwrap().len(), 1);

    let daemon = Daemon::start(&data);
    assert_eq!(status_of(&daemon, token["token"].as_str().unwrap()).await, 200);
    let failed = Instant::now() + WAIT_MAX;
    while daemon.json(&["pin", "show", id])["status"] != "failed" {
        assert!(Instant::now() < failed, "the pin is not looked at");
    }
    daemon.stop();
    assert_eq!(json(&["pin", "retry", id])["status"], "queued");
    assert_eq!(json(&["pin", "remove", id])["status"], "removed");
    assert!(error(&run(&["pin", "show", id], &data)).contains("no pin"));
    stdout(&run(&["user", "delete", "a@example.org", "--yes"], &data));
    // The next start removes what is left of it.
    let daemon = Daemon::start(&data);
    let gone = Instant::now() + WAIT_MAX;
    while daemon.json(&["user", "list"]).as_array().unwrap().len() > 1 {
        assert!(Instant::now() < gone, "the account stays");
    }
    daemon.stop();
}

#[test]
fn the_configuration_is_shown_with_its_origins_and_without_secrets() {
    let (_directory, data) = directory();
    let show = |extra: &[&str]| {
        let mut command = pinnace(&[&["config", "show"], extra].concat());
        command.env("PINNACE_AUTH__ADMIN_PASSWORD", "do not show").env("PINNACE_PINS__ACTIVE_MAX", "3");
        stdout(&command.arg("--data").arg(&data).output().unwrap())
    };
    let text = show(&[]);
    assert!(text.contains("nothing is running") && !text.contains("do not show"), "{text}");
    let settings: Value = serde_json::from_str(&show(&["--json"])).unwrap();
    let setting = |settings: &Value, key: &str| {
        settings.as_array().unwrap().iter().find(|setting| setting["key"] == key).unwrap().clone()
    };
    let active = json!({ "key": "pins.active_max", "value": 3, "origin": "variable PINNACE_PINS__ACTIVE_MAX" });
    assert_eq!(setting(&settings, "pins.active_max"), active);
    assert_eq!(setting(&settings, "auth.admin_password")["value"], "(hidden)");
    assert!(!data.exists(), "a question made the directory");

    // That of a running one is what it was started with.
    let daemon = Daemon::start(&data);
    let settings: Value = serde_json::from_str(&show(&["--json"])).unwrap();
    assert_eq!(setting(&settings, "pins.active_max")["value"], 16);
    assert_eq!(setting(&settings, "http.listen")["origin"], "flag --http");
    daemon.stop();
    let unknown = pinnace(&["config", "show"]).env("PINNACE_PINS__ACTIV_MAX", "3").output().unwrap();
    assert!(error(&unknown).contains("did you mean PINNACE_PINS__ACTIVE_MAX?"));
}

/// The figures of a text in the format of Prometheus, each under its name with its labels.
fn figures(text: &str) -> std::collections::BTreeMap<String, f64> {
    let mut described = std::collections::BTreeSet::new();
    let mut figures = std::collections::BTreeMap::new();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(help.split_once(' ').is_some_and(|(_, words)| words.ends_with('.')), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert!(described.insert(kind.split(' ').next().unwrap().to_owned()), "twice: {line}");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(described.iter().any(|described| name.starts_with(described.as_str())), "no type: {line}");
            assert!(figures.insert(name.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
        }
    }
    figures
}

#[tokio::test]
async fn figures_follow_what_happens_and_readiness_names_every_part() {
    let (_directory, data) = directory();
    let daemon = Daemon::start_with(&data, &[("PINNACE_METRICS__LISTEN", "127.0.0.1:0")]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = daemon.ready["metrics"].as_str().unwrap().to_owned();
    let figures = async || {
        let answer = client.get(&url).send().await.unwrap().error_for_status().unwrap();
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
        figures(&answer.text().await.unwrap())
    };
    let before = figures().await;
    assert_eq!((before["pinnace_pins{status=\"queued\"}"], before["pinnace_pins{status=\"failed\"}"]), (0.0, 0.0));
    assert_eq!((before["pinnace_gc_running"], before["pinnace_store_blocks"]), (0.0, 0.0));
    assert!(before["pinnace_process_resident_memory_bytes"] > 1e6 && before["pinnace_process_open_fds"] > 5.0);
    daemon.pin(&absent(1), "a").await;
    daemon.pin(&absent(2), "b").await;
    assert_eq!(status_of(&daemon, "no token").await, 401);
    let after = figures().await;
    let pins = after["pinnace_pins{status=\"queued\"}"] + after["pinnace_pins{status=\"pinning\"}"];
    assert_eq!(Some(pins), Some(2.0));
    let requests = |method: &str, status: &str| {
        let labels = format!("route=\"/api/psa/pins\",method=\"{method}\",status=\"{status}\"");
        let count = after.get(&format!("pinnace_http_request_duration_seconds_count{{{labels}}}")).copied();
        let all = after.get(&format!("pinnace_http_request_duration_seconds_bucket{{le=\"+Inf\",{labels}}}")).copied();
        assert_eq!(count, all, "{labels}");
        count
    };
    assert_eq!((requests("POST", "2xx"), requests("GET", "4xx")), (Some(2.0), Some(1.0)));
    assert!(!after.keys().any(|name| name.contains("no token")));

    let top = daemon.ready["endpoint"].as_str().unwrap().trim_end_matches("/api/psa/").to_owned();
    let ready = client.get(format!("{top}/readyz")).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 200);
    let ready: Value = ready.json().await.unwrap();
    let parts = json!({ "records": "ok", "blocks": "ok", "room": "ok", "node": "ok" });
    assert_eq!(ready, json!({ "status": "ready", "parts": parts }));
    daemon.stop();

    // A disk without room makes it live and not ready.
    let daemon = Daemon::start_with(&data, &[("PINNACE_STORE__MIN_FREE_BYTES", "1000TiB")]);
    assert!(daemon.ready.get("metrics").is_none());
    let top = daemon.ready["endpoint"].as_str().unwrap().trim_end_matches("/api/psa/").to_owned();
    assert_eq!(client.get(format!("{top}/healthz")).send().await.unwrap().status().as_u16(), 200);
    let ready = client.get(format!("{top}/readyz")).send().await.unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    let ready: Value = ready.json().await.unwrap();
    assert_eq!((&ready["status"], &ready["parts"]["records"]), (&json!("not ready"), &json!("ok")));
    assert!(ready["parts"]["room"].as_str().unwrap().contains("free"), "{ready}");
    daemon.stop();
}
