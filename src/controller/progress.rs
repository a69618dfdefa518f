//! Reads how far a build is from the runner in its pod. What cannot be read is left out: progress is a courtesy.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::{api::Progress, plan::layout};

/// An answer is some hundred bytes; a pod may send anything.
const ANSWER_LIMIT: usize = 16 * 1024;
/// Longest text of the current step.
const STEP_LIMIT: usize = 256;
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
        Self { client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector) }
    }
}

impl ProgressReader {
    /// How far the build in the pod at this address is, if it says so in time.
    pub async fn read(&self, address: &str) -> Option<Progress> {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let uri = format!("http://{host}:{}/progress", layout::PROGRESS_PORT).parse().ok()?;
        let answer = async {
            let body = Limited::new(self.client.get(uri).await.ok()?.into_body(), ANSWER_LIMIT).collect().await.ok()?;
            serde_json::from_slice::<Progress>(&body.to_bytes()).ok()
        };
        tokio::time::timeout(PATIENCE, answer).await.ok().flatten().map(checked)
    }
}

/// What a pod says is a tenant's word: numbers that make sense, texts of a bounded length.
fn checked(progress: Progress) -> Progress {
    let total = progress.total.max(0);
    let done = progress.done.clamp(0, total);
    Progress {
        total,
        done,
        cached: progress.cached.clamp(0, done),
        current: progress.current.map(|current| current.chars().filter(|c| !c.is_control()).take(STEP_LIMIT).collect()),
        summary: format!("{done}/{total}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, checked};

    #[test]
    fn progress_that_makes_no_sense_is_made_to() {
        let lie = Progress { total: 3, done: 9, cached: 99, current: Some("x\n\u{7}".repeat(1000)), summary: "99/3".to_owned() };
        let progress = checked(lie);
        assert_eq!((progress.total, progress.done, progress.cached, progress.summary.as_str()), (3, 3, 3, "3/3"));
        assert_eq!(progress.current.unwrap(), "x".repeat(256));
        assert_eq!(checked(Progress { total: -1, done: -1, cached: -1, ..Progress::default() }).summary, "0/0");
    }
}
