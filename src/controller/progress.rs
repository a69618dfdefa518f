//! Reads how far a build is from the runner in its pod. What cannot be read is left out: progress is a courtesy.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::summarise::plausible;
use crate::{api::Progress, plan::layout};

/// An answer is some hundred bytes; a pod may send anything.
const ANSWER_LIMIT: usize = 16 * 1024;
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads progress by http.
#[derive(Clone)]
pub struct ProgressReader {
    client: Client<HttpConnector, Empty<&'static [u8]>>,
}

impl Default for ProgressReader {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
        }
    }
}

impl ProgressReader {
    /// How far the build in the pod at this address is, if it says so in time.
    pub async fn read(&self, address: &str) -> Option<Progress> {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let uri = format!("http://{host}:{}/progress", layout::PROGRESS_PORT).parse().ok()?;
        let answer = async {
            let body = Limited::new(self.client.get(uri).await.ok()?.into_body(), ANSWER_LIMIT)
                .collect()
                .await
                .ok()?;
            serde_json::from_slice::<Progress>(&body.to_bytes()).ok()
        };
        tokio::time::timeout(PATIENCE, answer).await.ok().flatten().map(plausible)
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, plausible};

    #[test]
    fn progress_that_makes_no_sense_is_made_to() {
        let lie = Progress {
            total: 3,
            done: 9,
            cached: 99,
            current: Some("x\n\u{7}".repeat(1000)),
            summary: "99/3".to_owned(),
        };
        let progress = plausible(lie);
        assert_eq!(
            (progress.total, progress.done, progress.cached, progress.summary.as_str()),
            (3, 3, 3, "3/3")
        );
        assert_eq!(progress.current.unwrap(), "x".repeat(256));
        assert_eq!(
            plausible(Progress { total: -1, done: -1, cached: -1, ..Progress::default() }).summary,
            "0/0"
        );
    }
}
