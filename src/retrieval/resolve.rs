//! From the name of a gateway or a webhook to addresses that the network profile allows: whatever else a name resolves to is never
//! connected to.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use hickory_resolver::{ResolverBuilder, TokioResolver};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::model::limits::{RETRIEVAL_ADDRESSES_MAX, RETRIEVAL_CONNECT_MAX};
use crate::net::GatewayAddress;
use crate::net::gateway_address::GatewayHost;
use crate::net::profile::Profile;

/// Why a name leads nowhere. The texts are for the owner of the pin or the webhook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    /// The system's configuration can't be read.
    #[error("this service's DNS configuration can't be read")]
    NoResolver,
    /// There is no address.
    #[error("its name could not be resolved")]
    NotFound,
    /// It took too long.
    #[error("resolving its name took too long")]
    TooLong,
    /// None of the addresses may be used.
    #[error("its name resolves only to addresses that this service does not connect to")]
    Forbidden,
}

/// The system's DNS, as one finds it at the first look.
#[derive(Clone, Default)]
pub(super) struct Names {
    resolver: Arc<OnceLock<Option<TokioResolver>>>,
}

impl Names {
    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let made = self.resolver.get_or_init(|| {
            let made = TokioResolver::builder_tokio().and_then(ResolverBuilder::build);
            made.inspect_err(|error| tracing::warn!(%error, "names of gateways can't be resolved")).ok()
        });
        let resolver = made.as_ref().ok_or(ResolveError::NoResolver)?;
        let found = tokio::time::timeout(RETRIEVAL_CONNECT_MAX, resolver.lookup_ip(name)).await;
        let found = found.map_err(|_| ResolveError::TooLong)?.map_err(|_| ResolveError::NotFound)?;
        Ok(found.iter().collect())
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Names")
    }
}

/// Resolves whatever the client asks for to the addresses of one gateway.
pub(super) struct Checked {
    pub(super) names: Names,
    pub(super) profile: Profile,
    pub(super) gateway: GatewayAddress,
}

impl Resolve for Checked {
    fn resolve(&self, _name: Name) -> Resolving {
        let (names, profile, gateway) = (self.names.clone(), self.profile.clone(), self.gateway.clone());
        Box::pin(async move {
            let found = match &gateway.host {
                GatewayHost::Ip(ip) => vec![*ip],
                GatewayHost::Name(name, family) => {
                    let mut found = names.look_up(&absolute(name)).await?;
                    found.retain(|ip| family.has(*ip));
                    found
                }
            };
            Ok(Box::new(allowed(&profile, gateway.secure, found)?.into_iter()) as Addrs)
        })
    }
}

/// Resolves any name to those of its addresses that may be asked.
pub(super) struct Judged {
    pub(super) names: Names,
    pub(super) profile: Profile,
    /// Whether they are asked over TLS.
    pub(super) secure: bool,
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, profile, secure) = (self.names.clone(), self.profile.clone(), self.secure);
        Box::pin(async move {
            let found = names.look_up(&absolute(name.as_str())).await?;
            Ok(Box::new(allowed(&profile, secure, found)?.into_iter()) as Addrs)
        })
    }
}

/// The name with a dot at its end, which keeps the system's search domains out. A name of one part may be one of theirs.
fn absolute(name: &str) -> String {
    if name.contains('.') && !name.ends_with('.') { format!("{name}.") } else { name.to_owned() }
}

fn allowed(profile: &Profile, secure: bool, found: Vec<IpAddr>) -> Result<Vec<SocketAddr>, ResolveError> {
    if found.is_empty() {
        return Err(ResolveError::NotFound);
    }
    let usable = found.into_iter().filter(|ip| profile.may_ask_ip(*ip, secure).is_ok());
    // The port comes from the URL.
    let usable: Vec<SocketAddr> = usable.take(RETRIEVAL_ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, 0)).collect();
    if usable.is_empty() { Err(ResolveError::Forbidden) } else { Ok(usable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_addresses_are_left() {
        let (secure, plain) = (true, false);
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let lan = Profile::Lan { subnets: Vec::new() };
        for (profile, is_secure, found, expected) in [
            (&Profile::Public, secure, &["127.0.0.1", "8.8.8.8", "169.254.169.254"][..], Ok(&["8.8.8.8"][..])),
            (&Profile::Public, secure, &["127.0.0.1", "::1", "::ffff:10.0.0.1"], Err(ResolveError::Forbidden)),
            (&Profile::Public, secure, &[], Err(ResolveError::NotFound)),
            (&lan, secure, &["127.0.0.1", "8.8.8.8", "10.0.0.1"], Ok(&["127.0.0.1", "8.8.8.8"])),
            (&lan, plain, &["127.0.0.1", "8.8.8.8"], Ok(&["127.0.0.1"])),
        ] {
            let left = allowed(profile, is_secure, ips(found));
            let left = left.map(|left| left.iter().map(SocketAddr::ip).collect::<Vec<_>>());
            assert_eq!(left, expected.map(ips), "{found:?}");
        }
        let many = vec!["8.8.8.8"; 50];
        assert_eq!(allowed(&lan, secure, ips(&many)).unwrap().len(), RETRIEVAL_ADDRESSES_MAX);
    }
}
