//! How a pin is going, told as it happens: `/api/pins/{requestid}/events`, a stream of server-sent events.
//!
//! An event `status` has the same JSON as a look at the pin. The first comes at once, further ones when something has changed, and
//! the stream ends after one that says `pinned` or `failed`. A pin that is gone ends it with an event `removed`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::AppState;
use super::access::Reader;
use super::error::ApiError;
use super::pins::{PinStatusJson, RequestId};
use crate::model::query::Status;
use crate::model::{PinId, UserId};
use crate::pins::{PinError, PinService};

/// How often a pin is looked at, whether it has ended or not.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The shortest time between two looks: others' pins end too.
const LOOK_MIN: Duration = Duration::from_millis(50);

/// How often something is sent when nothing changes, so that nobody on the way takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The longest that one stream lasts; browsers come again by themselves.
const LASTS_MAX: Duration = Duration::from_hours(1);

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Something has changed.
    Status,
    /// The pin is gone.
    Removed,
}

/// One server-sent event of a pin. It describes the fields of the stream, which axum writes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PinEvent {
    /// What it is about.
    pub event: EventKind,
    /// With `status`, the JSON that a look at the pin gives; with `removed`, `{}`.
    #[schema(content_media_type = "application/json")]
    pub data: String,
}

impl From<PinEvent> for Event {
    fn from(PinEvent { event, data }: PinEvent) -> Self {
        let name = match event {
            EventKind::Status => "status",
            EventKind::Removed => "removed",
        };
        Self::default().event(name).data(data)
    }
}

/// One client that watches a pin.
struct Watcher {
    pins: PinService,
    user: UserId,
    id: PinId,
    ended: watch::Receiver<u64>,
    last: String,
    last_look_at: Instant,
    until: Instant,
    is_over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<PinEvent> {
        while !self.is_over && Instant::now() < self.until {
            if let Some(event) = self.look() {
                return Some(event);
            }
            // What ended may be another pin, so that waits for a moment.
            tokio::time::sleep_until(self.last_look_at + LOOK_MIN).await;
            tokio::select! {
                () = tokio::time::sleep_until(self.last_look_at + LOOK_EVERY) => {}
                Ok(()) = self.ended.changed() => {}
            }
        }
        None
    }

    /// What there is to tell, if anything has changed.
    fn look(&mut self) -> Option<PinEvent> {
        self.last_look_at = Instant::now();
        let view = match self.pins.get(self.user, self.id) {
            Ok(view) => view,
            Err(PinError::NotFound) => {
                self.is_over = true;
                return Some(PinEvent { event: EventKind::Removed, data: "{}".to_owned() });
            }
            Err(error) => {
                tracing::error!(%error, "a pin that is watched can't be read");
                self.is_over = true;
                return None;
            }
        };
        self.is_over = matches!(view.status, Status::Pinned | Status::Failed);
        let json = serde_json::to_string(&PinStatusJson::from(view)).ok()?;
        if json == self.last {
            return None;
        }
        self.last.clone_from(&json);
        Some(PinEvent { event: EventKind::Status, data: json })
    }
}

/// Watch a pin
///
/// Server-sent events: `status` with the pin as a look at it gives, each time something has changed, until it is pinned or failed; `removed`
/// when it is gone.
#[utoipa::path(get, path = "/{requestid}/events", operation_id = "watch_pin", tag = "pins", security(("bearer" = [])),
    params(("requestid" = String, Path, description = "the `requestid` of the pin")),
    responses((status = 200, description = "events as they happen", content_type = "text/event-stream", body = PinEvent)))]
pub(super) async fn watch(
    State(state): State<AppState>,
    Reader(identity): Reader,
    RequestId(id): RequestId,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    // Whether there is such a pin is told before the stream begins.
    state.pins.get(identity.user, id)?;
    let watchers = Arc::clone(state.pins.watchers());
    let permit = watchers.try_acquire_owned().map_err(|_| {
        ApiError::unavailable("too many pins are watched at the moment: look at the pin now and then instead")
    })?;
    let now = Instant::now();
    let watcher = Watcher {
        ended: state.pins.ended(),
        pins: state.pins,
        user: identity.user,
        id,
        last: String::new(),
        last_look_at: now,
        until: now + LASTS_MAX,
        is_over: false,
        _permit: permit,
    };
    let events = futures::stream::unfold(watcher, |mut watcher| async {
        let event = watcher.next().await?;
        Some((Ok(event.into()), watcher))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
