//! Requests to the runner of a build's pod, through the API server's port-forward.

use http_body_util::BodyExt;
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::plan::layout;

/// Most bytes of an answer that is a document.
const DOCUMENT_LIMIT: usize = 1 << 20;

/// Why the runner could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The API server refused the port-forward, or the pod is gone.
    #[error("the build's pod cannot be reached through the API server: {0}")]
    Forward(#[from] kube::Error),
    /// The connection broke.
    #[error("the connection to the build's pod broke: {0}")]
    Broken(String),
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
            Self::Forward(kube::Error::Api(status)) => !matches!(status.code, 401 | 403),
            Self::Forward(_) | Self::Broken(_) => true,
            Self::Refused { status, .. } => status.is_server_error() && *status != StatusCode::INSUFFICIENT_STORAGE,
        }
    }
}

/// One connection to the runner of a pod.
pub struct Tunnel<B> {
    sender: SendRequest<B>,
}

impl<B> Tunnel<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Opens a connection.
    pub async fn open(pods: &Api<Pod>, pod: &str) -> Result<Self, TunnelError> {
        let mut forwarder = pods.portforward(pod, &[layout::TRANSFER_PORT]).await?;
        let stream = forwarder.take_stream(layout::TRANSFER_PORT).ok_or_else(|| TunnelError::Broken("no stream".to_owned()))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(async move {
            let _ = connection.await;
            forwarder.abort();
        });
        Ok(Self { sender })
    }

    /// Asks; an answer that is no success is an error with the runner's words.
    pub async fn ask(&mut self, request: Request<B>) -> Result<Response<Incoming>, TunnelError> {
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
    let body = http_body_util::Limited::new(response.into_body(), DOCUMENT_LIMIT);
    body.collect().await.map(|body| body.to_bytes().to_vec()).map_err(|error| TunnelError::Broken(error.to_string()))
}

/// A request to the runner.
pub fn request<B>(method: &str, path: &str, body: B) -> Result<Request<B>, TunnelError> {
    let request = Request::builder().method(method).uri(path).header("host", "runner").header("content-type", "application/json");
    request.body(body).map_err(|error| TunnelError::Broken(error.to_string()))
}

fn broken(error: hyper::Error) -> TunnelError {
    TunnelError::Broken(error.to_string())
}
