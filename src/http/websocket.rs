//! `/` as a WebSocket: how peers that can do nothing else, browsers above all, come to the node. What they say is the node's to
//! judge; here the request is answered, and the stream handed over.

use axum::Error;
use axum::body::Bytes;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};

use super::auth::ClientAddress;
use super::{AppState, error};
use crate::net::NodeHandle;
use crate::net::websocket::{BUFFER_BYTES, Content, Frame, MESSAGE_BYTES_MAX, byte_stream};

/// What hands WebSockets over to the node. Any other request finds nothing here, as if this weren't there.
pub(super) fn route(node: NodeHandle) -> MethodRouter<AppState> {
    any(move |from, uri, upgrade| welcome(node.clone(), from, uri, upgrade))
}

async fn welcome(
    node: NodeHandle,
    ClientAddress(from): ClientAddress,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let Ok(upgrade) = upgrade else { return error::not_found(uri).await.into_response() };
    upgrade
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .on_failed_upgrade(move |error: Error| tracing::debug!(%error, %from, "a WebSocket failed"))
        .on_upgrade(move |socket| async move {
            if !node.welcome(byte_stream(socket), from) {
                tracing::debug!(%from, "a WebSocket is ended: too many wait for the node");
            }
        })
}

impl Frame for Message {
    fn binary(bytes: Bytes) -> Self {
        Self::Binary(bytes)
    }

    fn content(self) -> Content {
        match self {
            Self::Binary(bytes) => Content::Bytes(bytes),
            Self::Ping(_) | Self::Pong(_) => Content::Control,
            Self::Close(_) => Content::End,
            Self::Text(_) => Content::Foreign,
        }
    }
}
