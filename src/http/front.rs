//! What stands between the socket and the router, as the operator has set it: TLS, and who is believed about where a request
//! comes from.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::uri::{Scheme, Uri};

use super::forwarded::{self, Network};
use super::options::Options;
use super::tls::{Tls, TlsError};

/// Where below a URL the Pinning Services API is.
const API_PATH: &str = "/api/psa/";

/// The port of HTTPS, which URLs leave out.
const HTTPS_PORT: u16 = 443;

/// What stands between the socket and the router. The default has no TLS and trusts nobody.
#[derive(Debug, Clone, Default)]
pub struct Front {
    trusted_proxies: Arc<[Network]>,
    tls: Option<Tls>,
    /// Where clients reach the API, if the operator has said so.
    public_url: Option<String>,
    /// The first domain that the certificate will be for.
    domain: Option<String>,
    /// That tokens cross the network in clear.
    in_clear: Option<String>,
}

impl Front {
    /// Sets up what the options say; reads the certificate from its files. What ACME gets is kept in the directory
    /// `acme_cache`.
    pub fn open(options: &Options, acme_cache: &Path) -> Result<Self, TlsError> {
        let tls = Tls::open(options, acme_cache)?;
        let is_local = options.listen.ip().to_canonical().is_loopback();
        let in_clear = (tls.is_none() && !is_local && options.trusted_proxies.is_empty()).then(|| {
            format!(
                "the API listens on {} without TLS, so passwords and tokens cross the network in clear: set http.tls, or put a reverse proxy with TLS in front and name it in http.trusted_proxies",
                options.listen
            )
        });
        Ok(Self {
            trusted_proxies: options.trusted_proxies.as_slice().into(),
            domain: options.acme_domains.first().cloned(),
            public_url: Some(options.public_url.trim_end_matches('/').to_owned()).filter(|url| !url.is_empty()),
            tls,
            in_clear,
        })
    }

    /// The PSA endpoint as clients are to use it, where the server is bound to this address.
    pub fn endpoint(&self, bound: SocketAddr) -> String {
        let base = match (&self.public_url, &self.tls, &self.domain) {
            (Some(url), ..) => url.clone(),
            (None, None, _) => format!("http://{}", reachable(bound)),
            (None, Some(_), Some(domain)) if bound.port() == HTTPS_PORT => format!("https://{domain}"),
            (None, Some(_), Some(domain)) => format!("https://{domain}:{}", bound.port()),
            (None, Some(_), None) => format!("https://{}", reachable(bound)),
        };
        base + API_PATH
    }

    /// The domain and port under which clients reach the root of the server over TLS, where the server is bound to this address;
    /// nothing unless both follow from what the operator has said.
    pub fn secure_domain(&self, bound: SocketAddr) -> Option<(String, u16)> {
        let url: Uri = match &self.public_url {
            Some(url) => url.parse().ok()?,
            None if self.tls.is_some() => format!("https://{}:{}", self.domain.as_ref()?, bound.port()).parse().ok()?,
            None => return None,
        };
        let host = url.host().filter(|_| url.scheme() == Some(&Scheme::HTTPS) && url.path() == "/")?;
        let is_name = !host.starts_with('[') && host.parse::<IpAddr>().is_err();
        is_name.then(|| (host.to_owned(), url.port_u16().unwrap_or(HTTPS_PORT)))
    }

    /// What the operator should mend: sentences.
    pub fn warnings(&self) -> Vec<String> {
        self.in_clear.iter().cloned().chain(self.tls.as_ref().and_then(Tls::warning)).collect()
    }

    /// Keeps the certificate up to date, for ever.
    pub async fn keep(self) {
        match self.tls {
            Some(tls) => tls.keep().await,
            None => std::future::pending().await,
        }
    }

    /// TLS, if it is spoken.
    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Whether connections from there are bounded in number: those of a proxy carry the requests of many.
    pub(super) fn is_bounded(&self, peer: IpAddr) -> bool {
        !forwarded::is_trusted(&self.trusted_proxies, peer)
    }

    /// The address of the client that sent this over a connection from `peer`.
    pub(super) fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        forwarded::client_address(peer, headers, &self.trusted_proxies)
    }
}

/// Whether this is the URL of a service, to which paths can be added.
pub fn is_base_url(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|url| {
        let is_http = url.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        is_http && url.host().is_some_and(|host| !host.is_empty()) && url.query().is_none() && !text.contains('#')
    })
}

/// The address to show: a client can't connect to "all interfaces".
pub fn reachable(bound: SocketAddr) -> SocketAddr {
    let mut shown = bound;
    if bound.ip().is_unspecified() {
        shown.set_ip(if bound.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_where_clients_reach_it() {
        let endpoint = |front: &Front, bound: &str| front.endpoint(bound.parse().unwrap());
        let plain = Front::default();
        assert_eq!(endpoint(&plain, "127.0.0.1:4080"), "http://127.0.0.1:4080/api/psa/");
        assert_eq!(endpoint(&plain, "0.0.0.0:80"), "http://127.0.0.1:80/api/psa/");
        assert_eq!(endpoint(&plain, "[::]:4080"), "http://[::1]:4080/api/psa/");
        let named = Front { public_url: Some("https://example.org/pins".into()), ..Front::default() };
        assert_eq!(endpoint(&named, "0.0.0.0:4080"), "https://example.org/pins/api/psa/");
    }

    #[test]
    fn the_domain_is_known_where_it_was_named() {
        let domain = |url: &str| {
            let front = Front { public_url: Some(url.to_owned()).filter(|url| !url.is_empty()), ..Front::default() };
            front.secure_domain("0.0.0.0:4080".parse().unwrap())
        };
        assert_eq!(domain("https://pins.example.org"), Some(("pins.example.org".into(), 443)));
        assert_eq!(domain("https://pins.example.org:8443"), Some(("pins.example.org".into(), 8443)));
        for other in
            ["", "http://pins.example.org", "https://example.org/pins", "https://192.0.2.1", "https://[::1]:8443"]
        {
            assert_eq!(domain(other), None, "{other}");
        }
    }

    #[test]
    fn base_urls_are_told_from_other_text() {
        for good in ["https://pins.example.org", "http://192.0.2.1:8080/", "https://example.org/some/path/"] {
            assert!(is_base_url(good), "{good}");
        }
        for bad in ["", "pins.example.org", "/path", "ftp://example.org", "https://", "https://a/?b", "https://a/#b"] {
            assert!(!is_base_url(bad), "{bad}");
        }
    }
}
