//! Random sequences of requests, with restarts between, against a plain list in memory that says what each answer must be.

use std::collections::{BTreeMap, BTreeSet};

use cid::Cid;
use pinnace::model::{Failure, FailureCode, PinState};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Server, cid, id, path, progress};

const ROUNDS: usize = 3;
const STEPS: usize = 120;
const NAMES: [&str; 7] = ["photo", "Photo", "PHOTOS 2026", "ärger", "ÄRGER im 100%_Büro", "a/b?c&d=e#f", "日本"];
const PIECES: [&str; 6] = ["photo", "hot", "ÄRG", "%_", "日", "nothing"];
const STATUSES: [&str; 4] = ["queued", "pinning", "pinned", "failed"];

/// The numbers of Knuth's MMIX generator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

#[derive(Debug, Clone)]
struct Pin {
    account: usize,
    answer: Value,
    cid: Cid,
    name: Option<String>,
    meta: BTreeMap<String, String>,
    status: &'static str,
}

impl Pin {
    fn id(&self) -> &str {
        self.answer["requestid"].as_str().unwrap()
    }

    fn created(&self) -> &str {
        self.answer["created"].as_str().unwrap()
    }
}

/// A few contents, one of them under CIDs of both versions and in two alphabets.
fn some_cid(random: &mut Random) -> String {
    let v1 = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";
    let same: Cid = v1.parse().unwrap();
    match random.below(8) {
        0 => v1.to_owned(),
        1 => Cid::new_v0(*same.hash()).unwrap().to_string(),
        2 => same.to_string_of_base(cid::multibase::Base::Base58Btc).unwrap(),
        number => cid(number),
    }
}

fn body(random: &mut Random) -> Value {
    let mut body = json!({ "cid": some_cid(random) });
    if !random.one_in(4) {
        body["name"] = random.pick(&NAMES).into();
    }
    for key in ["app", "Ä", "a\"b"] {
        if random.one_in(2) {
            body["meta"][key] = random.pick(&["1", "2", ""]).into();
        }
    }
    body
}

/// Whether two CIDs stand for the same content of the same kind.
fn is_same(one: &Cid, other: &Cid) -> bool {
    one.hash() == other.hash() && one.codec() == other.codec()
}

/// Whether a pin is what a filter asks for.
type Check = Box<dyn Fn(&Pin) -> bool>;

/// Random filters: the query, and what a pin must be for it.
fn filters(random: &mut Random, pins: &[Pin]) -> (Vec<(String, String)>, Check) {
    let mut query = Vec::new();
    let mut checks: Vec<Check> = Vec::new();
    if random.one_in(3) {
        let texts: Vec<String> = (0..=random.below(3)).map(|_| some_cid(random)).collect();
        query.push(("cid".to_owned(), texts.join(",")));
        let cids: Vec<Cid> = texts.iter().map(|text| text.parse().unwrap()).collect();
        checks.push(Box::new(move |pin| cids.iter().any(|cid| is_same(cid, &pin.cid))));
    }
    let is_named = random.one_in(2);
    if is_named {
        let how = random.pick(&["", "exact", "iexact", "partial", "ipartial"]);
        let name = if random.one_in(2) { random.pick(&NAMES) } else { random.pick(&PIECES) };
        query.push(("name".to_owned(), name.to_owned()));
        if !how.is_empty() {
            query.push(("match".to_owned(), how.to_owned()));
        }
        checks.push(Box::new(move |pin| {
            pin.name.as_ref().is_some_and(|own| match how {
                "iexact" => own.to_lowercase() == name.to_lowercase(),
                "partial" => own.contains(name),
                "ipartial" => own.to_lowercase().contains(&name.to_lowercase()),
                _ => own == name,
            })
        }));
    }
    let statuses: BTreeSet<&str> = (0..random.below(4)).map(|_| random.pick(&STATUSES)).collect();
    if statuses.is_empty() {
        if !is_named {
            checks.push(Box::new(|pin| pin.status == "pinned"));
        }
    } else {
        query.push(("status".to_owned(), statuses.iter().copied().collect::<Vec<_>>().join(",")));
        checks.push(Box::new(move |pin| statuses.contains(pin.status)));
    }
    for (key, is_before) in [("before", true), ("after", false)] {
        if !pins.is_empty() && random.one_in(4) {
            let time = pins[random.below(pins.len())].created().to_owned();
            query.push((key.to_owned(), time.clone()));
            // All have the same form, so they sort as texts.
            checks.push(Box::new(move |pin| {
                if is_before { pin.created() < time.as_str() } else { pin.created() > time.as_str() }
            }));
        }
    }
    if random.one_in(3) {
        let (key, value) = (random.pick(&["app", "Ä", "a\"b"]), random.pick(&["1", "2"]));
        let pair = json!({ key: value });
        query.push(if random.one_in(2) {
            ("meta".to_owned(), pair.to_string())
        } else {
            (format!("meta[{key}]"), value.to_owned())
        });
        checks.push(Box::new(move |pin| pin.meta.get(key).is_some_and(|own| own == value)));
    }
    (query, Box::new(move |pin| checks.iter().all(|check| check(pin))))
}

struct Run {
    server: Server,
    tokens: [String; 2],
    /// The oldest first.
    pins: Vec<Pin>,
}

impl Run {
    async fn add(&mut self, random: &mut Random, account: usize, replaces: Option<usize>) {
        let body = body(random);
        let url = replaces.map_or_else(|| "/api/psa/pins".to_owned(), |index| path(&self.pins[index].answer));
        let request = self.server.request(Method::POST, &url, &self.tokens[account]).json(&body);
        let answer = self.server.send(request).await.ok(202);
        assert_eq!(answer["pin"], body);
        if let Some(index) = replaces {
            self.pins.remove(index);
        }
        self.pins.push(Pin {
            account,
            cid: body["cid"].as_str().unwrap().parse().unwrap(),
            name: body["name"].as_str().map(str::to_owned),
            meta: serde_json::from_value(body["meta"].clone()).unwrap_or_default(),
            answer,
            status: "queued",
        });
    }

    /// Does what the runner would.
    async fn move_on(&mut self, random: &mut Random, index: usize) {
        let pin = &mut self.pins[index];
        let id = id(&pin.answer);
        match (pin.status, random.below(3)) {
            ("queued", 0) => {
                self.server.set_fetching(id, progress());
                pin.status = "pinning";
            }
            ("queued" | "pinning", 1) => {
                self.server.records.finish(id, PinState::Pinned { blocks: 1, bytes: 2 }).await.unwrap();
                self.server.board.forget(&id);
                pin.status = "pinned";
            }
            ("queued" | "pinning", _) => {
                let failure = Failure { code: FailureCode::Stalled, sentence: "x".into(), tried: Vec::new() };
                self.server.records.finish(id, PinState::Failed(failure)).await.unwrap();
                self.server.board.forget(&id);
                pin.status = "failed";
            }
            _ => {}
        }
    }

    async fn check_list(&self, random: &mut Random) {
        let account = random.below(2);
        let (mut query, matches) = filters(random, &self.pins);
        let limit = random.pick(&[1, 2, 10, 1000]);
        if limit != 10 || random.one_in(2) {
            query.push(("limit".to_owned(), limit.to_string()));
        }
        let url = reqwest::Url::parse_with_params(&format!("{}/api/psa/pins", self.server.url), &query).unwrap();
        let request = self.server.client.get(url).bearer_auth(&self.tokens[account]);
        let page = self.server.send(request).await.ok(200);
        let expected: Vec<&Pin> = self.pins.iter().rev().filter(|pin| pin.account == account && matches(pin)).collect();
        let found: Vec<(&str, &str)> = page["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pin| (pin["requestid"].as_str().unwrap(), pin["status"].as_str().unwrap()))
            .collect();
        let wanted: Vec<(&str, &str)> = expected.iter().take(limit).map(|pin| (pin.id(), pin.status)).collect();
        assert_eq!(found, wanted, "{query:?}");
        assert_eq!(page["count"], expected.len(), "{query:?}");
    }

    async fn step(&mut self, random: &mut Random) {
        let account = random.below(2);
        let some = (!self.pins.is_empty()).then(|| random.below(self.pins.len()));
        match (random.below(10), some) {
            (0, Some(index)) => {
                let pin = self.pins[index].clone();
                let delete = |token| self.server.send(self.server.request(Method::DELETE, &path(&pin.answer), token));
                // Whose it isn't can't remove it.
                delete(&self.tokens[1 - pin.account]).await.error(404, "NOT_FOUND");
                delete(&self.tokens[pin.account]).await.ok(202);
                delete(&self.tokens[pin.account]).await.error(404, "NOT_FOUND");
                self.server.board.forget(&id(&pin.answer));
                self.pins.remove(index);
            }
            (1, Some(index)) => {
                let owner = self.pins[index].account;
                self.server.board.forget(&id(&self.pins[index].answer));
                self.add(random, owner, Some(index)).await;
            }
            (2..=4, Some(index)) => self.move_on(random, index).await,
            (5..=7, _) => self.check_list(random).await,
            _ => self.add(random, account, None).await,
        }
    }
}

#[tokio::test]
async fn whatever_is_done_the_lists_are_those_of_a_plain_model() {
    let seed = std::env::var("PINNACE_MODEL_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("PINNACE_MODEL_SEED={seed}");
    let mut random = Random(seed);
    let server = Server::start().await;
    let tokens = [server.token.clone(), server.other_account().await.1];
    let mut run = Run { server, tokens, pins: Vec::new() };
    for _ in 0..ROUNDS {
        for _ in 0..STEPS {
            run.step(&mut random).await;
        }
        run.server = run.server.restart().await;
        // Nobody fetches after a restart until the runner begins.
        for pin in run.pins.iter_mut().filter(|pin| pin.status == "pinning") {
            pin.status = "queued";
        }
        for _ in 0..20 {
            run.check_list(&mut random).await;
        }
    }
}
