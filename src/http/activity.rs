//! Whether a connection is used: one that carries no request for too long is closed, whatever else its client sends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// The requests of one connection.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    running: usize,
    /// When the last request ended, or the connection began.
    last_end: Instant,
}

/// A request that runs until this is dropped.
#[derive(Debug)]
pub(super) struct Running(Activity);

/// The body of an answer, whose request runs until it was sent.
#[derive(Debug)]
pub(super) struct RunningBody {
    body: axum::body::Body,
    _running: Running,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { running: 0, last_end: Instant::now() })))
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Running {
        self.lock().running += 1;
        Running(self.clone())
    }

    /// Waits until no request has run for so long. While some run it looks only now and then, so it may be up to twice
    /// as long.
    pub(super) async fn ends(&self, idle_max: Duration) {
        loop {
            let look_again = {
                let state = self.lock();
                let now = Instant::now();
                let idle_until = state.last_end + idle_max;
                match state.running {
                    0 if idle_until <= now => return,
                    0 => idle_until,
                    _ => now + idle_max,
                }
            };
            tokio::time::sleep_until(look_again).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        state.last_end = Instant::now();
    }
}

impl RunningBody {
    pub(super) fn new(body: axum::body::Body, running: Running) -> Self {
        Self { body, _running: running }
    }
}

impl HttpBody for RunningBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use std::pin::pin;

    const IDLE_MAX: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_connection_lasts_as_long_as_a_request_runs_and_a_while_longer() {
        let activity = Activity::new();
        let running = activity.begin();
        let began = Instant::now();
        let mut ends = pin!(activity.ends(IDLE_MAX));
        while began.elapsed() < IDLE_MAX * 3 {
            assert!(poll!(ends.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        let body = RunningBody::new(axum::body::Body::from("1234"), running);
        assert_eq!(body.size_hint().exact(), Some(4));
        assert!(poll!(ends.as_mut()).is_pending());
        drop(body);
        let ended = Instant::now();
        ends.await;
        assert!(ended.elapsed() >= IDLE_MAX);
    }

    #[tokio::test]
    async fn a_connection_without_a_request_ends_too() {
        let began = Instant::now();
        Activity::new().ends(IDLE_MAX).await;
        assert!(began.elapsed() >= IDLE_MAX);
    }
}
