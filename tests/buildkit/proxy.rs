//! A proxy between the client and a daemon that can end a session as the daemon would.

use std::{
    future::{Future, pending},
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http2::{Builder as ClientBuilder, SendRequest},
    server::conn::http2::Builder as ServerBuilder,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ocibuild::buildkit::{Address, Connection};
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Notify,
};

const SESSION: &str = "/moby.buildkit.v1.Control/Session";
const MAX_HEADER_LIST_BYTES: u32 = 16 << 20;

/// Forwards one connection.
pub struct Proxy {
    pub connection: Connection,
    cut: Arc<Notify>,
    _folder: TempDir,
}

impl Proxy {
    pub async fn start(daemon: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let cut = Arc::new(Notify::new());
        let sessions = cut.clone();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let daemon = UnixStream::connect(daemon).await.unwrap();
            let (sender, connection) = ClientBuilder::new(TokioExecutor::new())
                .max_header_list_size(MAX_HEADER_LIST_BYTES)
                .handshake(TokioIo::new(daemon))
                .await
                .unwrap();
            tokio::spawn(connection);
            let service =
                service_fn(move |request| forward(sender.clone(), request, sessions.clone()));
            ServerBuilder::new(TokioExecutor::new())
                .max_header_list_size(MAX_HEADER_LIST_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .await
        });
        let connection = Connection::open(&Address::Unix(path), None).await.unwrap();
        Self { connection, cut, _folder: folder }
    }

    /// Ends the session that is open.
    pub fn end_session(&self) {
        self.cut.notify_waiters();
    }
}

async fn forward(
    mut sender: SendRequest<Incoming>,
    request: Request<Incoming>,
    cut: Arc<Notify>,
) -> hyper::Result<Response<Cut>> {
    let is_session = request.uri().path() == SESSION;
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| Cut {
        body,
        cut: if is_session { Box::pin(cut.notified_owned()) } else { Box::pin(pending()) },
    }))
}

/// A body that breaks off when it is cut.
struct Cut {
    body: Incoming,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Body for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
        }
        let mut frame = self.body.frame();
        Pin::new(&mut frame).poll(context).map_err(io::Error::other)
    }
}
