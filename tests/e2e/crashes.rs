//! A service that is killed again and again at any moment while clients make, replace and remove pins: in the end each
//! pin that was acknowledged is as it was said to be, and nothing else is there.
//!
//! `PINNACE_CRASHES=200 cargo test --test e2e crashes -- --nocapture` kills it more often; `PINNACE_CRASH_SEED` repeats the choices of a run (what
//! they meet depends on the moment).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::support::asker::Asker;
use crate::support::daemon::{Daemon, Home, run};
use crate::support::dag::Dag;
use crate::support::provider::{Provider, unreachable_origin};
use crate::support::until;

const CLIENTS: usize = 4;
const PINS_PER_CLIENT_MAX: usize = 12;
const CRASHES: usize = 20;

/// What a client knows of a name of its own: the DAG that is pinned under it, or that nothing is. A request that wasn't
/// answered leaves both possible.
type Known = BTreeMap<String, Vec<Option<usize>>>;

struct Content {
    dag: Dag,
    origins: Vec<String>,
}

struct Client {
    number: usize,
    random: StdRng,
    known: Known,
    /// The ids of pins that are known to be there.
    ids: BTreeMap<String, String>,
    made: usize,
}

/// A request that was answered; `None` when the service died first.
async fn send(http: &reqwest::Client, request: reqwest::RequestBuilder) -> Option<Value> {
    let answer = http.execute(request.build().unwrap()).await.ok()?;
    let (status, text) = (answer.status().as_u16(), answer.text().await.ok()?);
    assert!(status == 200 || status == 202 || status == 404, "{status}: {text}");
    Some(if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
}

impl Client {
    /// Sends requests until the service dies.
    async fn work(&mut self, pins: &str, token: &str, contents: &[Content]) {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        loop {
            let content = self.random.random_range(0..contents.len());
            let name = format!("{}-{}", self.number, self.made);
            let body = json!({
                "cid": contents[content].dag.root.to_string(),
                "name": name,
                "origins": contents[content].origins,
            });
            let some = self.ids.keys().nth(self.random.random_range(0..=self.ids.len())).cloned();
            let outcome = match (self.random.random_range(0..4), some) {
                (0, Some(old)) => {
                    let id = self.ids.remove(&old).unwrap();
                    self.known.insert(old.clone(), vec![self.known[&old][0], None]);
                    let request = http.delete(format!("{pins}/{id}")).bearer_auth(token);
                    let outcome = send(&http, request).await;
                    if outcome.is_some() {
                        self.known.insert(old, vec![None]);
                    }
                    outcome
                }
                (1, Some(old)) => {
                    let id = self.ids.remove(&old).unwrap();
                    self.made += 1;
                    self.known.insert(old.clone(), vec![self.known[&old][0], None]);
                    self.known.insert(name.clone(), vec![Some(content), None]);
                    let request = http.post(format!("{pins}/{id}")).bearer_auth(token).json(&body);
                    let outcome = send(&http, request).await;
                    if let Some(made) = &outcome {
                        self.known.insert(old, vec![None]);
                        self.acknowledged(name, content, made);
                    }
                    outcome
                }
                _ if self.ids.len() < PINS_PER_CLIENT_MAX => {
                    self.made += 1;
                    self.known.insert(name.clone(), vec![Some(content), None]);
                    let outcome = send(&http, http.post(pins).bearer_auth(token).json(&body)).await;
                    if let Some(made) = &outcome {
                        self.acknowledged(name, content, made);
                    }
                    outcome
                }
                _ => send(&http, http.get(pins).bearer_auth(token)).await,
            };
            if outcome.is_none() {
                return;
            }
        }
    }

    fn acknowledged(&mut self, name: String, content: usize, made: &Value) {
        self.known.insert(name.clone(), vec![Some(content)]);
        self.ids.insert(name, made["requestid"].as_str().unwrap().to_owned());
    }
}

fn pins_url(service: &Daemon) -> String {
    format!("{}pins", service.ready.endpoint)
}

/// All pins, whatever their status, by name.
async fn all_pins(service: &Daemon, token: &str) -> BTreeMap<String, Value> {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}?status=queued,pinning,pinned,failed&limit=1000", pins_url(service));
    let page = send(&http, http.get(url).bearer_auth(token)).await.unwrap();
    let results = page["results"].as_array().unwrap();
    assert_eq!(page["count"], results.len(), "one page has all of them");
    results.iter().map(|pin| (pin["pin"]["name"].as_str().unwrap().to_owned(), pin.clone())).collect()
}

fn ask(home: &Home, command: &str) -> Value {
    let output = run(&[command, "--json"], &home.data());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is pinned, and who has it: a provider, one beside an origin that isn't there, or `other`.
async fn contents(other: &Daemon) -> (Vec<Content>, Vec<Provider>) {
    let dags = [
        Dag::wide("crash, few", 3, 2000),
        Dag::wide("crash, some", 40, 20_000),
        Dag::wide("crash, many", 300, 3000),
        Dag::shared("crash, shared", 8),
        Dag::wide("crash, one", 1, 500_000),
        Dag::wide("crash, large", 12, 900_000),
    ];
    let mut contents = Vec::new();
    let mut providers = Vec::new();
    for (number, dag) in dags.into_iter().enumerate() {
        let provider = Provider::start(&dag).await;
        let origins = match number % 3 {
            0 => vec![provider.origin()],
            1 => vec![unreachable_origin(pinnace::net::PeerId::random()), provider.origin()],
            // Another pinnace has it.
            _ => {
                let api = other.api();
                api.wait_pinned(&api.add(&dag.root, &[provider.origin()]).await, 30).await;
                other.ready.multiaddrs.clone()
            }
        };
        contents.push(Content { dag, origins });
        providers.push(provider);
    }
    (contents, providers)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_acknowledged_is_there_after_any_number_of_crashes() {
    let from_environment = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let crashes = from_environment("PINNACE_CRASHES").map_or(CRASHES, |crashes| usize::try_from(crashes).unwrap());
    let seed = from_environment("PINNACE_CRASH_SEED").unwrap_or_else(rand::random);
    println!("PINNACE_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let other_home = Home::new();
    let other = other_home.start().await;
    let (contents, _providers) = contents(&other).await;
    let contents = Arc::new(contents);

    let home = Home::new();
    let mut service = home.start().await;
    let token = service.ready.token().to_owned();
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|number| Client {
            number,
            random: StdRng::seed_from_u64(random.random()),
            known: Known::new(),
            ids: BTreeMap::new(),
            made: 0,
        })
        .collect();
    for _ in 0..crashes {
        let url = pins_url(&service);
        let work: Vec<_> = clients
            .drain(..)
            .map(|mut client| {
                let (url, token, contents) = (url.clone(), token.clone(), Arc::clone(&contents));
                tokio::spawn(async move {
                    client.work(&url, &token, &contents).await;
                    client
                })
            })
            .collect();
        // The moment is what is random here: nothing is waited for.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..400_000))).await;
        service.kill().await;
        for client in work {
            clients.push(client.await.unwrap());
        }
        service = home.start().await;
        // What a request did that wasn't answered shows now.
        let pins = all_pins(&service, &token).await;
        for client in &mut clients {
            for (name, possible) in &mut client.known {
                let found = pins.get(name).map(|pin| {
                    let cid = pin["pin"]["cid"].as_str().unwrap();
                    contents.iter().position(|content| content.dag.root.to_string() == cid).unwrap()
                });
                assert!(possible.contains(&found), "{name} is {found:?} and may be {possible:?}");
                *possible = vec![found];
                if found.is_some() {
                    client.ids.insert(name.clone(), pins[name]["requestid"].as_str().unwrap().to_owned());
                } else {
                    client.ids.remove(name);
                }
            }
        }
        let known = clients.iter().flat_map(|client| &client.ids).count();
        assert_eq!(pins.len(), known, "no pin is there that nobody made");
    }

    let pinned = until("all pins to be whole", 120, async || {
        let pins = all_pins(&service, &token).await;
        assert!(pins.values().all(|pin| pin["status"] != "failed"), "{pins:?}");
        pins.values().all(|pin| pin["status"] == "pinned").then_some(pins)
    })
    .await;
    let mut asker = Asker::connect(&service.ready.multiaddr("/tcp/")).await;
    for content in contents.iter() {
        if pinned.values().any(|pin| pin["pin"]["cid"] == content.dag.root.to_string()) {
            asker.compare(&content.dag).await;
            let (car, root) = (home.path("exported.car"), content.dag.root.to_string());
            let car = car.to_str().unwrap();
            let exported = run(&["export", &root, "-o", car], &home.data());
            assert!(exported.status.success(), "{exported:?}");
            // An import compares every block with its CID.
            let imported = run(&["import", car, "--json"], &other_home.data());
            let imported: Value = serde_json::from_slice(&imported.stdout).unwrap();
            assert_eq!(imported["blocks"], content.dag.blocks.len(), "{imported}");
        }
    }
    println!("{} pins are whole after {crashes} crashes", pinned.len());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for pin in pinned.values() {
        let url = format!("{}/{}", pins_url(&service), pin["requestid"].as_str().unwrap());
        send(&http, http.delete(url).bearer_auth(&token)).await.unwrap();
    }
    ask(&home, "gc");
    let left = ask(&home, "status");
    assert_eq!(left["store"]["blocks"], 0, "{left}");
}
