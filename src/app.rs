//! The composition root.

use crate::config::Config;

/// A running service.
#[derive(Debug)]
pub struct App {
    ready: Ready,
}

/// What a started service tells.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The PSA endpoint, with the port really bound.
    pub endpoint: String,
    /// The peer's id.
    pub peer_id: String,
    /// The peer's addresses.
    pub multiaddrs: Vec<String>,
    /// The process id.
    pub pid: u32,
    /// What the first start made.
    pub first_start: Option<FirstStart>,
}

/// What the first start made.
#[derive(Debug, Clone)]
pub struct FirstStart {
    /// The account.
    pub email: String,
    /// Its password, if it was generated.
    pub password: Option<String>,
    /// Its token.
    pub token: String,
}

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Nothing is there to start.
    #[error("this build has no service")]
    Empty,
}

impl App {
    /// Starts the service.
    pub async fn start(_config: Config) -> Result<Self, AppError> {
        std::future::ready(Err(AppError::Empty)).await
    }

    /// What a started service tells.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Stops the service.
    pub async fn stop(self) -> Result<(), AppError> {
        std::future::ready(Ok(())).await
    }
}
