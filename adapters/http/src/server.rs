//! Connections: accepted up to a limit, with time-outs, until the server stops.

use std::{future::Future, io, sync::Arc};

use hyper_util::rt::{TokioIo, TokioTimer};
use poem::{
    Endpoint, Request, Response,
    endpoint::BoxEndpoint,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ApiConfig,
    api::{Context, UseCases},
    routes,
};

/// Serves until `shutdown` resolves; then ends event streams, lets requests under way finish within the grace time, and
/// returns.
///
/// poem's own server has no time-out for headers, so a client that sends them slowly would hold a connection for ever;
/// the accept loop is ours for that reason.
pub async fn serve(
    use_cases: UseCases,
    config: ApiConfig,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let stopping = CancellationToken::new();
    let context = Context::new(Some(use_cases), config.clone(), stopping.clone());
    let endpoint = Arc::new(routes(&config, context));
    let places = Arc::new(Semaphore::new(config.max_connections));
    let connections = TaskTracker::new();
    tokio::pin!(shutdown);
    loop {
        let place = tokio::select! {
            () = &mut shutdown => break,
            place = Arc::clone(&places).acquire_owned() => place.map_err(io::Error::other)?,
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let connection = connection(
                    stream,
                    remote.into(),
                    Arc::clone(&endpoint),
                    config.clone(),
                    stopping.clone(),
                );
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, or the client is gone already: neither ends the server.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
    drop(listener);
    stopping.cancel();
    connections.close();
    if tokio::time::timeout(config.grace, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "some connections did not end in time");
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    remote: poem::Addr,
    endpoint: Arc<BoxEndpoint<'static, Response>>,
    config: ApiConfig,
    stopping: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let local =
        stream.local_addr().map_or_else(|_| LocalAddr::default(), |address| LocalAddr(address.into()));
    let remote = RemoteAddr(remote);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let endpoint = Arc::clone(&endpoint);
        let request = Request::from((request, local.clone(), remote.clone(), Scheme::HTTP));
        async move {
            let response: Response = endpoint.get_response(request).await;
            Ok::<_, std::convert::Infallible>(hyper::Response::from(response))
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
}
