//! The pinning API as a client uses it.

use std::time::Duration;

use cid::Cid;
use serde_json::{Value, json};

use super::until;

/// A client of one service.
pub struct Api {
    client: reqwest::Client,
    pins: String,
    token: String,
}

impl Api {
    pub fn new(endpoint: &str, token: &str) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        Self { client, pins: format!("{endpoint}pins"), token: token.to_owned() }
    }

    /// Asks for a pin and returns its status as answered.
    pub async fn add(&self, cid: &Cid, origins: &[String]) -> Value {
        self.post(&json!({ "cid": cid.to_string(), "origins": origins })).await
    }

    /// Asks for a pin as the body says.
    pub async fn post(&self, body: &Value) -> Value {
        let answer = self.client.post(&self.pins).bearer_auth(&self.token).json(body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status.as_u16(), 202, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Removes a pin.
    pub async fn remove(&self, pin: &Value) {
        let url = format!("{}/{}", self.pins, pin["requestid"].as_str().unwrap());
        let answer = self.client.delete(url).bearer_auth(&self.token).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 202);
    }

    /// The status of a pin.
    pub async fn get(&self, pin: &Value) -> Value {
        let url = format!("{}/{}", self.pins, pin["requestid"].as_str().unwrap());
        let answer = self.client.get(url).bearer_auth(&self.token).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status.as_u16(), 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The number of pins in a status; proves that the service answers.
    pub async fn count(&self, status: &str) -> u64 {
        let url = format!("{}?status={status}", self.pins);
        let answer = self.client.get(url).bearer_auth(&self.token).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        answer.json::<Value>().await.unwrap()["count"].as_u64().unwrap()
    }

    /// Waits until a pin's status is as described.
    pub async fn wait(&self, pin: &Value, what: &str, seconds: u64, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let look = async || {
            last = self.get(pin).await;
            is_so(&last).then(|| last.clone())
        };
        until(what, seconds, look).await
    }

    /// Waits until a pin is whole; one that fails is an error at once.
    pub async fn wait_pinned(&self, pin: &Value, seconds: u64) -> Value {
        self.wait(pin, "whole pin", seconds, |pin| {
            assert_ne!(pin["status"], "failed", "{pin}");
            pin["status"] == "pinned"
        })
        .await
    }

    /// Waits until that many blocks of an unfinished pin are durable.
    pub async fn wait_blocks(&self, pin: &Value, blocks: usize, seconds: u64) -> Value {
        self.wait(pin, "blocks of the pin", seconds, |pin| {
            assert!(pin["status"] == "queued" || pin["status"] == "pinning", "{pin}");
            blocks_fetched(pin) >= blocks
        })
        .await
    }
}

/// Durable blocks, as an unfinished pin tells.
pub fn blocks_fetched(pin: &Value) -> usize {
    pin["info"]["blocks_fetched"].as_str().map_or(0, |count| count.parse().unwrap())
}

/// The sentence about a pin.
pub fn details(pin: &Value) -> &str {
    pin["info"]["status_details"].as_str().unwrap_or_default()
}
