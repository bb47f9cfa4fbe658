//! From a gateway's name to addresses that the network profile allows: whatever else a name resolves to is never
//! connected to.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use hickory_resolver::{ResolverBuilder, TokioResolver};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::model::limits::{RETRIEVAL_ADDRESSES_MAX, RETRIEVAL_CONNECT_MAX};
use crate::net::GatewayAddress;
use crate::net::gateway_address::GatewayHost;
use crate::net::profile::Profile;

/// Why a name leads nowhere. The texts are for the pin's owner.
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
                    // A dot at the end keeps the system's search domains out.
                    let absolute = if name.contains('.') { format!("{name}.") } else { name.clone() };
                    let mut found = names.look_up(&absolute).await?;
                    found.retain(|ip| family.has(*ip));
                    found
                }
            };
            Ok(Box::new(allowed(&profile, &gateway, found)?.into_iter()) as Addrs)
        })
    }
}

fn allowed(profile: &Profile, gateway: &GatewayAddress, found: Vec<IpAddr>) -> Result<Vec<SocketAddr>, ResolveError> {
    if found.is_empty() {
        return Err(ResolveError::NotFound);
    }
    let usable = found.into_iter().filter(|ip| profile.may_ask_ip(*ip, gateway.secure).is_ok());
    // The port comes from the URL.
    let usable: Vec<SocketAddr> = usable.take(RETRIEVAL_ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, 0)).collect();
    if usable.is_empty() { Err(ResolveError::Forbidden) } else { Ok(usable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_addresses_are_left() {
        let gateway = |text: &str| GatewayAddress::parse(text).unwrap().unwrap().0;
        let (secure, plain) = (gateway("/dns/example.org/https"), gateway("/dns/example.org/http"));
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let lan = Profile::Lan { subnets: Vec::new() };
        for (profile, gateway, found, expected) in [
            (&Profile::Public, &secure, &["127.0.0.1", "8.8.8.8", "169.254.169.254"][..], Ok(&["8.8.8.8"][..])),
            (&Profile::Public, &secure, &["127.0.0.1", "::1", "::ffff:10.0.0.1"], Err(ResolveError::Forbidden)),
            (&Profile::Public, &secure, &[], Err(ResolveError::NotFound)),
            (&lan, &secure, &["127.0.0.1", "8.8.8.8", "10.0.0.1"], Ok(&["127.0.0.1", "8.8.8.8"])),
            (&lan, &plain, &["127.0.0.1", "8.8.8.8"], Ok(&["127.0.0.1"])),
        ] {
            let left = allowed(profile, gateway, ips(found));
            let left = left.map(|left| left.iter().map(SocketAddr::ip).collect::<Vec<_>>());
            assert_eq!(left, expected.map(ips), "{found:?}");
        }
        let many = vec!["8.8.8.8"; 50];
        assert_eq!(allowed(&lan, &secure, ips(&many)).unwrap().len(), RETRIEVAL_ADDRESSES_MAX);
    }
}
