//! The server: accepts connections, bounds them in number and time, and ends them in order.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
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
use tower::{ServiceExt, service_fn};

use super::AppState;
use super::activity::{Activity, RunningBody};
use super::auth::ClientAddress;
use super::body::Budgets;
use super::front::Front;
use super::idle::IdleStream;
use super::router::router;
use super::security;
use super::shares::Shares;
use crate::model::limits::{
    HTTP_BUFFER_BYTES_MAX, HTTP_CONNECTIONS_MAX, HTTP_CONNECTIONS_PER_ADDRESS_MAX, HTTP_DRAIN_MAX, HTTP_HEAD_BYTES_MAX,
    HTTP_HEAD_MAX, HTTP_IDLE_MAX, HTTP_STREAMS_PER_CONNECTION_MAX, HTTP_WINDOW_BYTES,
};

/// The wait after a failed accept: most such errors (no file descriptor left) pass when something else ends.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves the API until `shutdown` is done, see [`serve_router`].
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    front: Front,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    serve_router(listener, router(state), front, shutdown).await
}

/// Where connections come from.
pub(super) trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and the address of its other end if it has one.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<IpAddr>)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, address) = self.accept().await?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %address, "TCP_NODELAY can't be set");
        }
        Ok((stream, Some(address.ip().to_canonical())))
    }
}

/// Serves HTTP/1.1 and HTTP/2 (as agreed on with TLS, or with prior knowledge) until `shutdown` is done; then accepts no more, and gives running
/// requests a moment to end.
pub(super) async fn serve_router(
    listener: impl Listener,
    router: Router,
    front: Front,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let budgets = Budgets::new();
    let slots = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    let of_addresses = Shares::new(HTTP_CONNECTIONS_PER_ADDRESS_MAX);
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = listener.next().await?;
            Ok::<_, io::Error>((slot, stream, peer))
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((slot, stream, peer)) => {
                let of_address = match peer.filter(|peer| front.is_bounded(*peer)) {
                    None => None,
                    Some(peer) => match of_addresses.try_take(peer) {
                        Some(share) => Some(share),
                        None => {
                            tracing::debug!(%peer, "an HTTP connection is closed: its address has too many");
                            continue;
                        }
                    },
                };
                let connection =
                    connection(stream, peer, router.clone(), front.clone(), budgets.clone(), stopped.clone());
                connections.spawn(async move {
                    connection.await;
                    drop((slot, of_address));
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
    peer: Option<IpAddr>,
    router: Router,
    front: Front,
    budgets: Budgets,
    mut stopped: watch::Receiver<()>,
) {
    let Some(tls) = front.tls().cloned() else {
        return serve_stream(stream, peer, router, front, budgets, stopped).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        _ = stopped.changed() => return,
    };
    match accepted {
        Ok(Some(stream)) => serve_stream(stream, peer, router, front, budgets, stopped).await,
        Ok(None) => tracing::debug!(?peer, "an ACME authority looked at this server"),
        Err(error) => tracing::debug!(%error, ?peer, "a TLS handshake failed"),
    }
}

/// Serves the requests of a connection, in clear or below TLS.
async fn serve_stream(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<IpAddr>,
    router: Router,
    front: Front,
    budgets: Budgets,
    mut stopped: watch::Receiver<()>,
) {
    let is_tls = front.tls().is_some();
    let activity = Activity::new();
    let requests = activity.clone();
    let service = TowerToHyperService::new(service_fn(move |request: Request<_>| {
        let running = requests.begin();
        let mut request = request.map(Body::new);
        if let Some(peer) = peer {
            let address = front.client_address(peer, request.headers());
            request.extensions_mut().insert(ClientAddress(address));
        }
        request.extensions_mut().insert(budgets.clone());
        let answer = router.clone().oneshot(request);
        async move {
            let mut answer = answer.await?.map(|body| RunningBody::new(body, running));
            security::secure(answer.headers_mut(), is_tls);
            Ok::<_, Infallible>(answer)
        }
    }));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HTTP_HEAD_MAX).max_buf_size(HTTP_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP_STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(HTTP_HEAD_BYTES_MAX)
        .initial_connection_window_size(HTTP_WINDOW_BYTES)
        .initial_stream_window_size(HTTP_WINDOW_BYTES);
    let stream = TokioIo::new(IdleStream::new(stream, HTTP_IDLE_MAX));
    let mut connection = pin!(builder.serve_connection_with_upgrades(stream, service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        // The sender is dropped at the stop, which ends this wait with an error.
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = activity.ends(HTTP_IDLE_MAX) => {
            connection.as_mut().graceful_shutdown();
            // A client that holds on in spite of that is cut off.
            tokio::time::timeout(HTTP_DRAIN_MAX, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error, ?peer, "an HTTP connection ended");
    }
}
