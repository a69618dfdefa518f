//! Requests to the runner of a build's pod, through the API server's port-forward.

use std::{io, time::Duration};

use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::time::timeout;

use super::forward::{forward, refusal};
use crate::plan::layout;

/// Most bytes of an answer that is a document.
const DOCUMENT_LIMIT: usize = 1 << 20;
/// How long the API server may take to open a way to the pod.
const OPENING: Duration = Duration::from_secs(30);
/// How long a connection may stand still while something is expected of it: longer than the runner holds a question.
pub const STILL: Duration = Duration::from_mins(1);

/// Why the runner could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The API server refused the port-forward, or the pod is gone.
    #[error("the build's pod cannot be reached through the API server: {0}")]
    Forward(#[from] kube::Error),
    /// The connection broke.
    #[error("the connection to the build's pod broke: {0}")]
    Broken(String),
    /// The connection is there, and nothing comes.
    #[error("the connection to the build's pod has stood still for {}s", STILL.as_secs())]
    Still,
    /// The runner refused.
    #[error("the build's pod answered {status}: {words}")]
    Refused {
        /// The status code.
        status: StatusCode,
        /// Its words.
        words: String,
    },
}

impl TunnelError {
    /// Whether another try may help: all but what the runner itself refused.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Forward(_) | Self::Broken(_) | Self::Still => true,
            Self::Refused { status, .. } => {
                status.is_server_error() && *status != StatusCode::INSUFFICIENT_STORAGE
            }
        }
    }

    /// Whether the API server does not let this account through. Right after its start it may err for a moment.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forward(error) if matches!(refusal(error), Some(401 | 403)))
    }
}

/// The body of a request.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// One connection to the runner of a pod.
pub struct Tunnel {
    sender: SendRequest<RequestBody>,
}

impl Tunnel {
    /// Opens a connection.
    pub async fn open(pods: &Api<Pod>, pod: &str) -> Result<Self, TunnelError> {
        let opening = async {
            let stream = forward(pods, pod, layout::TRANSFER_PORT).await?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
            tokio::spawn(connection);
            Ok(Self { sender })
        };
        timeout(OPENING, opening).await.unwrap_or(Err(TunnelError::Still))
    }

    /// Whether the connection is still there.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Asks; an answer that is no success is an error with the runner's words.
    pub async fn ask(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TunnelError> {
        self.sender.ready().await.map_err(broken)?;
        let response = self.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let words = document(response).await.unwrap_or_default();
        Err(TunnelError::Refused { status, words: String::from_utf8_lossy(&words).into_owned() })
    }
}

/// An answer that is a document.
pub async fn document(response: Response<Incoming>) -> Result<Vec<u8>, TunnelError> {
    let body = http_body_util::Limited::new(response.into_body(), DOCUMENT_LIMIT).collect();
    let body = timeout(STILL, body).await.map_err(|_| TunnelError::Still)?;
    body.map(|body| body.to_bytes().to_vec())
        .map_err(|error| TunnelError::Broken(error.to_string()))
}

/// A request to the runner.
pub fn request(
    method: &str,
    path: &str,
    body: RequestBody,
) -> Result<Request<RequestBody>, TunnelError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "runner")
        .header("content-type", "application/json");
    request.body(body).map_err(|error| TunnelError::Broken(error.to_string()))
}

/// A request without a body.
pub fn question(method: &str, path: &str) -> Result<Request<RequestBody>, TunnelError> {
    request(method, path, Empty::new().map_err(|never| match never {}).boxed_unsync())
}

/// A document as the body of a request.
pub fn body_of(document: Vec<u8>) -> RequestBody {
    Full::new(Bytes::from(document)).map_err(|never| match never {}).boxed_unsync()
}

/// hyper's own words say little; what lies below them says what happened.
pub fn broken(error: hyper::Error) -> TunnelError {
    TunnelError::Broken(format!("{:#}", anyhow::Error::from(error)))
}
