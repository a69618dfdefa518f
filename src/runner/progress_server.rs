//! Answers how far the build is. Steps of the build can reach this port too: nothing secret is said, nothing is taken.

use axum::{Json, Router, extract::State, routing::get};
use tokio::net::TcpListener;

use super::progress::SharedTracker;
use crate::{api::Progress, plan::layout};

/// Serves `/progress` for as long as the runner runs. A port that is taken costs the progress, not the build.
pub async fn serve(tracker: SharedTracker) {
    let app = Router::new().route("/progress", get(answer)).with_state(tracker);
    let Ok(listener) =
        TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, layout::PROGRESS_PORT)).await
    else {
        // A node without IPv6.
        if let Ok(listener) =
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, layout::PROGRESS_PORT)).await
        {
            let _ = axum::serve(listener, app).await;
        }
        return;
    };
    let _ = axum::serve(listener, app).await;
}

async fn answer(State(tracker): State<SharedTracker>) -> Json<Progress> {
    Json(tracker.with(|tracker| tracker.progress()))
}
