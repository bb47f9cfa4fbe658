//! The server: accepts connections, bounds them in number and time, and ends them in order.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::AppState;
use super::auth::ClientAddress;
use super::body::Budgets;
use super::idle::IdleStream;
use super::router::router;
use crate::model::limits::{
    HTTP_BUFFER_BYTES_MAX, HTTP_CONNECTIONS_MAX, HTTP_DRAIN_MAX, HTTP_HEAD_MAX, HTTP_IDLE_MAX,
    HTTP_STREAMS_PER_CONNECTION_MAX, HTTP_WINDOW_BYTES,
};

/// The wait after a failed accept: most such errors (no file descriptor left) pass when something else ends.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves the API until `shutdown` is done, see [`serve_router`].
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    serve_router(listener, router(state), shutdown).await
}

/// Where connections come from.
pub(super) trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and its address if it has one.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<ClientAddress>)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Option<ClientAddress>)> {
        let (stream, address) = self.accept().await?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %address, "TCP_NODELAY can't be set");
        }
        Ok((stream, Some(ClientAddress(address.ip()))))
    }
}

/// Serves HTTP/1.1 and HTTP/2 (with prior knowledge) until `shutdown` is done; then accepts no more, and gives running
/// requests a moment to end.
pub(super) async fn serve_router(
    listener: impl Listener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let budgets = Budgets::new();
    let slots = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, address) = listener.next().await?;
            Ok::<_, io::Error>((slot, stream, address))
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((slot, stream, address)) => {
                let connection = connection(stream, address, router.clone(), budgets.clone(), stopped.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection can't be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    drop(stop);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(HTTP_DRAIN_MAX, drained).await.is_err() {
        tracing::warn!("HTTP requests were still running at the stop; they are cut off");
        connections.shutdown().await;
    }
    Ok(())
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: Option<ClientAddress>,
    router: Router,
    budgets: Budgets,
    mut stopped: watch::Receiver<()>,
) {
    let service = TowerToHyperService::new(router.map_request(move |request: Request<_>| {
        let mut request = request.map(Body::new);
        if let Some(address) = address {
            request.extensions_mut().insert(address);
        }
        request.extensions_mut().insert(budgets.clone());
        request
    }));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HTTP_HEAD_MAX).max_buf_size(HTTP_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP_STREAMS_PER_CONNECTION_MAX)
        .initial_connection_window_size(HTTP_WINDOW_BYTES)
        .initial_stream_window_size(HTTP_WINDOW_BYTES);
    let stream = TokioIo::new(IdleStream::new(stream, HTTP_IDLE_MAX));
    let mut connection = pin!(builder.serve_connection(stream, service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        // The sender is dropped at the stop, which ends this wait with an error.
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error, ?address, "an HTTP connection ended");
    }
}
