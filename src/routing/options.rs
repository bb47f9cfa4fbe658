//! What an operator can set about delegated routing: section `[routing]` of the configuration.

use serde::Deserialize;

/// What stands for the public router, in a public network.
pub const AUTO: &str = "auto";

/// The public router, which the IPFS Foundation runs for everybody.
const PUBLIC_ROUTER: &str = "https://delegated-ipfs.dev";

/// Section `[routing]`; every key is explained in `config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Routers that are asked for providers, each by what its URL has before `/routing/v1`, or [`AUTO`].
    pub endpoints: Vec<String>,
}

impl Options {
    /// The routers to ask. A network of its own shall not be told to the public one without being asked.
    pub fn urls(&self, is_public: bool) -> Vec<&str> {
        let each = self.endpoints.iter().map(String::as_str);
        each.filter_map(|url| if url == AUTO { is_public.then_some(PUBLIC_ROUTER) } else { Some(url) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_router_is_asked_only_of_the_public_network() {
        let options = Options { endpoints: vec!["http://10.0.0.1:8080".to_owned(), AUTO.to_owned()] };
        assert_eq!(options.urls(true), ["http://10.0.0.1:8080", PUBLIC_ROUTER]);
        assert_eq!(options.urls(false), ["http://10.0.0.1:8080"]);
    }
}
