//! Health and metrics by http.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::net::TcpListener;

use super::metrics::Metrics;

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
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, readiness: Readiness) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route(
            "/metrics",
            get(async |State(state): State<(Arc<Metrics>, Readiness)>| {
                ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], state.0.text())
            }),
        )
        .with_state((metrics, readiness));
    axum::serve(listener, app).await
}

async fn ready(State((_, readiness)): State<(Arc<Metrics>, Readiness)>) -> impl IntoResponse {
    match readiness.what() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {what}\n")),
    }
}
