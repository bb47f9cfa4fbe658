//! Calls of URLs that accounts name, such as their webhooks, past the same guard as for gateways: whatever a name resolves
//! to is judged by the network profile, and only what was judged is connected to.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};
use tokio::sync::OnceCell;

use super::client::failure_of;
use super::resolve::{Judged, Names};
use crate::model::limits::{
    HOOK_ANSWER_BYTES_MAX, HOOK_CALL_MAX, HOOK_URL_BYTES_MAX, RETRIEVAL_HEADERS_BYTES_MAX, RETRIEVAL_STALL_MAX,
};
use crate::net::GatewayAddress;
use crate::net::gateway_address::{Family, GatewayHost};
use crate::net::profile::{Profile, Refusal};

/// Why a URL isn't called. The texts are for the account's owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlRefusal {
    /// It is none, or none of a kind that can be called.
    #[error("it is not a URL; give one such as https://example.org/hook")]
    Form,
    /// It is too long.
    #[error("it has more than {HOOK_URL_BYTES_MAX} bytes; shorten it")]
    TooLong,
    /// It begins with something else than `https` or `http`.
    #[error("it does not begin with https://; give one such as https://example.org/hook")]
    Scheme,
    /// It has a user name or a password.
    #[error("it has a user name or a password in it; leave them out, as each call is signed")]
    Credentials,
    /// It isn't encrypted and leads out of the own networks.
    #[error(
        "it is plain HTTP, which this service uses only inside its own networks; give one that begins with https://"
    )]
    PlainHttp,
    /// The profile doesn't allow its address.
    #[error("{0}")]
    Address(Refusal),
}

/// Why a call failed, with the status of the answer if one came. The sentence is for the account's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFailure {
    /// The status of the answer.
    pub status: Option<u16>,
    /// What was wrong.
    pub sentence: String,
}

impl CallFailure {
    fn new(sentence: impl Into<String>) -> Self {
        Self { status: None, sentence: sentence.into() }
    }
}

/// What is called, signed or not.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// The URL, which is judged again.
    pub url: &'a str,
    /// A header besides those that every call has.
    pub header: (&'static str, String),
    /// JSON.
    pub body: Bytes,
}

/// Calls URLs that accounts name. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    profile: Profile,
    names: Names,
    /// Made at the first call: a client reads the certificates that the system trusts.
    secure: Arc<OnceCell<Client>>,
    plain: Arc<OnceCell<Client>>,
}

/// What of a URL can be judged in any profile.
pub fn check_form(url: &str) -> Result<(), UrlRefusal> {
    target(url).map(drop)
}

/// The URL with the machine that it names.
fn target(text: &str) -> Result<(Url, GatewayAddress), UrlRefusal> {
    if text.len() > HOOK_URL_BYTES_MAX {
        return Err(UrlRefusal::TooLong);
    }
    let mut url = Url::parse(text).map_err(|_| UrlRefusal::Form)?;
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err(UrlRefusal::Scheme),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlRefusal::Credentials);
    }
    url.set_fragment(None);
    // Numbers such as 0x7f.1 are an address in its usual form by now.
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(UrlRefusal::Form)?;
    let host = match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(ip) => GatewayHost::Ip(ip),
        Err(_) => GatewayHost::Name(host.to_owned(), Family::Any),
    };
    let port = url.port_or_known_default().filter(|port| *port > 0).ok_or(UrlRefusal::Form)?;
    let address = GatewayAddress { secure, host, port, server_name: None, path: String::new() };
    Ok((url, address))
}

impl Caller {
    /// Calls only what this profile allows.
    pub fn new(profile: Profile) -> Self {
        Self { profile, names: Names::default(), secure: Arc::default(), plain: Arc::default() }
    }

    /// Whether a URL may be called, as far as that is known before its name is resolved.
    pub fn check(&self, url: &str) -> Result<(), UrlRefusal> {
        self.judged(url).map(drop)
    }

    fn judged(&self, text: &str) -> Result<(Url, bool), UrlRefusal> {
        let (url, address) = target(text)?;
        self.profile.may_ask(&address).map_err(|refusal| match refusal {
            Refusal::PlainHttp => UrlRefusal::PlainHttp,
            refusal => UrlRefusal::Address(refusal),
        })?;
        Ok((url, address.secure))
    }

    /// Sends a `POST` and returns the status if it is a 2xx. Redirects aren't followed, and of the answer's body only the first
    /// bytes are read, and not looked at.
    pub async fn post(&self, call: Call<'_>) -> Result<u16, CallFailure> {
        let (url, secure) = self.judged(call.url).map_err(|refusal| CallFailure::new(refusal.to_string()))?;
        let client = self.client(secure).await?;
        let (name, value) = call.header;
        let request = client.post(url).header(CONTENT_TYPE, "application/json").header(name, value).body(call.body);
        let mut response = request.send().await.map_err(|error| {
            if error.is_timeout() {
                return CallFailure::new(format!("it did not answer within {} s", HOOK_CALL_MAX.as_secs()));
            }
            CallFailure::new(failure_of(error))
        })?;
        let status = response.status();
        let mut read = 0;
        while read < HOOK_ANSWER_BYTES_MAX {
            match response.chunk().await {
                Ok(Some(piece)) => read += piece.len(),
                // What it says doesn't matter, nor whether all of it comes.
                Ok(None) | Err(_) => break,
            }
        }
        if status.is_success() {
            return Ok(status.as_u16());
        }
        let sentence = if status.is_redirection() {
            format!("it redirects ({status}), and redirects are not followed")
        } else {
            format!("it answers {status}")
        };
        Err(CallFailure { status: Some(status.as_u16()), sentence })
    }

    async fn client(&self, secure: bool) -> Result<&Client, CallFailure> {
        let made = if secure { &self.secure } else { &self.plain };
        made.get_or_try_init(|| async {
            let judged = Judged { names: self.names.clone(), profile: self.profile.clone(), secure };
            let work = tokio::task::spawn_blocking(move || build(judged));
            let built = work.await.map_err(|_| CallFailure::new("this service is stopping"))?;
            built.map_err(|error| CallFailure::new(format!("this service can't set up its side of HTTPS: {error}")))
        })
        .await
    }
}

fn build(judged: Judged) -> Result<Client, reqwest::Error> {
    let secure = judged.secure;
    let mut builder = Client::builder()
        .user_agent(concat!("pinnace/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(Arc::new(judged))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .https_only(secure)
        .connect_timeout(HOOK_CALL_MAX)
        .timeout(HOOK_CALL_MAX)
        .pool_idle_timeout(RETRIEVAL_STALL_MAX)
        .pool_max_idle_per_host(1)
        .http2_max_header_list_size(RETRIEVAL_HEADERS_BYTES_MAX);
    if !secure {
        // The system may have none, and none are needed.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::super::resolve::ResolveError;
    use super::*;
    use crate::net::address::Subnet;

    #[test]
    fn urls_are_judged_by_their_form_and_by_the_profile() {
        let subnets = vec![Subnet { address: "192.168.1.5".parse().unwrap(), prefix_bits: 24 }];
        let (public, lan) = (Caller::new(Profile::Public), Caller::new(Profile::Lan { subnets }));
        for (url, in_public, in_lan) in [
            ("https://example.org/hook?key=x", None, None),
            ("https://8.8.8.8/", None, None),
            ("https://example.org:8443", None, None),
            ("http://example.org/", Some("plain HTTP"), None),
            ("http://8.8.8.8/", Some("plain HTTP"), Some("plain HTTP")),
            ("http://192.168.1.20/", Some("not globally routable"), None),
            ("https://192.168.1.20/", Some("not globally routable"), None),
            ("https://10.0.0.1/", Some("not globally routable"), Some("network of this service's own")),
            ("https://169.254.169.254/latest/", Some("not globally routable"), Some("network of this service's own")),
            ("http://127.0.0.1:1234/", Some("not globally routable"), None),
            ("https://2130706433/", Some("not globally routable"), None),
            ("https://0x7f.1/", Some("not globally routable"), None),
            ("https://[::1]/", Some("not globally routable"), None),
            ("https://[::ffff:10.0.0.1]/", Some("not globally routable"), Some("network of this service's own")),
            ("https://localhost/", Some("not globally routable"), None),
            ("https://metadata.internal/", Some("not globally routable"), None),
            ("https://0.0.0.0/", Some("no machine"), Some("no machine")),
            ("https://example.org:0/", Some("not a URL"), Some("not a URL")),
            ("https://a:b@example.org/", Some("password"), Some("password")),
            ("ftp://example.org/", Some("https://"), Some("https://")),
            ("example.org/hook", Some("not a URL"), Some("not a URL")),
            ("", Some("not a URL"), Some("not a URL")),
        ] {
            for (caller, expected) in [(&public, in_public), (&lan, in_lan)] {
                match (caller.check(url), expected) {
                    (Ok(()), None) => {}
                    (Err(refusal), Some(part)) if refusal.to_string().contains(part) => {}
                    (judged, expected) => panic!("{url}: {judged:?} instead of {expected:?}"),
                }
            }
        }
        check_form("http://10.0.0.1/").unwrap();
        assert_eq!(check_form(&format!("https://example.org/{}", "x".repeat(2048))), Err(UrlRefusal::TooLong));
    }

    /// The guard below the client, which names can't get past.
    #[tokio::test]
    async fn a_name_that_leads_to_a_forbidden_address_is_not_connected_to() {
        let caller = Caller::new(Profile::Public);
        let client = build(Judged { names: caller.names.clone(), profile: Profile::Public, secure: false }).unwrap();
        // Whoever sets a URL can't name it, but a name can be made to lead there.
        let error = client.post("http://localhost:9/").send().await.unwrap_err();
        let sentence = failure_of(error);
        let expected =
            [ResolveError::Forbidden, ResolveError::NotFound, ResolveError::NoResolver].map(|error| error.to_string());
        assert!(expected.contains(&sentence), "it was connected to: {sentence}");
    }
}
