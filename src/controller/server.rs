//! Health and metrics by http.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use super::metrics::Metrics;

/// Connections at once, and how long one may take: any pod of the cluster may open as many as it likes.
const CONNECTIONS: usize = 256;
const PATIENCE: Duration = Duration::from_secs(10);
/// After the kernel had no room for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// What this replica waits for; ready when it waits for nothing.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Option<String>>>);

impl Readiness {
    /// Not ready, and what for.
    pub fn waiting(what: impl Into<String>) -> Self {
        Self(Arc::new(Mutex::new(Some(what.into()))))
    }

    /// Waits for something.
    pub fn wait(&self, what: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(what.into());
    }

    /// Waits for nothing any more.
    pub fn ready(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn what(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves `/healthz`, `/readyz` and `/metrics` until the process ends.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: Readiness,
) -> io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route(
            "/metrics",
            get(async |State(state): State<(Arc<Metrics>, Readiness)>| {
                (
                    [(
                        "content-type",
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    )],
                    state.0.text(),
                )
            }),
        )
        .with_state((metrics, readiness));
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the metrics was not taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let answering = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        tokio::spawn(async move {
            // Who does not ask, or does not read, is let go.
            let _ = timeout(PATIENCE, answering).await;
            drop(permit);
        });
    }
}

async fn ready(State((_, readiness)): State<(Arc<Metrics>, Readiness)>) -> impl IntoResponse {
    match readiness.what() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::{Arc, CONNECTIONS, Metrics, Readiness, TcpListener, serve};

    #[tokio::test]
    async fn connections_that_ask_for_nothing_are_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(Metrics::default()), Readiness::default()));
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert_eq!(idle[0].read(&mut [0]).await.unwrap(), 0, "it was closed");
    }
}
