//! A connection to a BuildKit daemon: one HTTP/2 connection over a unix socket, or over TCP with
//! mutual TLS.

use std::{
    error::Error as StdError,
    fmt, io,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::watch,
};
use tonic::{Status, body::Body};

use super::{error::SolveError, proto::moby::buildkit::v1::control_client::ControlClient};

/// The interval of pings. BuildKit's server tolerates this one because it sends a health check of
/// the session every 5 s; with pings every second it closes the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout of a ping. With the interval, a stopped daemon is detected within 15 s.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an error that may come of a lost connection waits for the connection to say so.
const LOST_TIMEOUT: Duration = Duration::from_secs(1);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Error details travel in trailers and contain the whole Dockerfile.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 20;
/// BuildKit's own limit for a message (`defaults.DefaultMaxRecvMsgSize`).
pub(super) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The address of a daemon: `unix:///run/buildkit/buildkitd.sock` or `tcp://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

/// An address that is not `unix://PATH` or `tcp://HOST:PORT`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid BuildKit address {0:?}: expected unix://PATH or tcp://HOST:PORT")]
pub struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let authority = text.strip_prefix("tcp://").ok_or_else(invalid)?;
        let (host, port) = authority.rsplit_once(':').ok_or_else(invalid)?;
        // An IPv6 address is enclosed in brackets, as in URLs.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match port.parse() {
            Ok(port) if !host.is_empty() => Ok(Self::Tcp { host: host.to_owned(), port }),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => {
                write!(formatter, "tcp://[{host}]:{port}")
            }
            Self::Tcp { host, port } => write!(formatter, "tcp://{host}:{port}"),
        }
    }
}

/// The client's side of mutual TLS, in PEM.
#[derive(Clone)]
pub struct ClientTls {
    /// The authority that signed the daemon's certificate.
    pub ca: Vec<u8>,
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    /// The name that the daemon's certificate must carry; `None` expects the address's host.
    pub server_name: Option<String>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// Error of connecting to a daemon.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to BuildKit at {address}: {source}")]
    Connect { address: Address, source: io::Error },
    #[error("cannot connect to BuildKit at {address}: no answer within {}s", CONNECT_TIMEOUT.as_secs())]
    TimedOut { address: Address },
    #[error("cannot connect to BuildKit at {address}: TLS handshake failed: {source}")]
    Tls { address: Address, source: io::Error },
    #[error("cannot connect to BuildKit at {address}: HTTP/2 handshake failed: {source}")]
    Http { address: Address, source: hyper::Error },
    #[error("invalid TLS settings for BuildKit: {0}")]
    Settings(String),
}

/// A connection to a daemon. Clones share it. It carries any number of solves and never
/// reconnects: once it is lost, every request fails.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    lost: watch::Receiver<Option<ConnectionLost>>,
}

/// The connection to the daemon ended: the daemon closed it, died, or stopped answering pings.
#[derive(Clone, Debug, thiserror::Error)]
#[error("lost the connection to BuildKit: {0}")]
pub struct ConnectionLost(String);

impl ConnectionLost {
    pub(super) fn of(error: &dyn StdError) -> Self {
        Self(root_cause(error))
    }
}

impl Connection {
    /// Connects. TLS is for TCP addresses only; without it, a TCP connection is not encrypted.
    pub async fn open(address: &Address, tls: Option<&ClientTls>) -> Result<Self, ConnectError> {
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, Self::open_now(address, tls));
        opened.await.unwrap_or_else(|_| Err(ConnectError::TimedOut { address: address.clone() }))
    }

    async fn open_now(address: &Address, tls: Option<&ClientTls>) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError::Connect { address: address.clone(), source };
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                Self::handshake(address, stream).await
            }
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                let Some(tls) = tls else { return Self::handshake(address, stream).await };
                let name = tls.server_name.clone().unwrap_or_else(|| host.clone());
                let name = ServerName::try_from(name)
                    .map_err(|error| ConnectError::Settings(error.to_string()))?;
                let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(tls)?));
                let stream = connector
                    .connect(name, stream)
                    .await
                    .map_err(|source| ConnectError::Tls { address: address.clone(), source })?;
                Self::handshake(address, stream).await
            }
        }
    }

    async fn handshake(
        address: &Address,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, ConnectError> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Http { address: address.clone(), source })?;
        let (losing, lost) = watch::channel(None);
        tokio::spawn(async move {
            let words = match connection.await {
                Ok(()) => "the daemon closed it".to_owned(),
                Err(error) => root_cause(&error),
            };
            losing.send_replace(Some(ConnectionLost(words)));
        });
        Ok(Self { channel: Channel { sender }, lost })
    }

    pub(super) fn control(&self) -> ControlClient<Channel> {
        // BuildKit ignores the `:authority` header.
        let origin = Uri::from_static("http://buildkit");
        ControlClient::with_origin(self.channel.clone(), origin)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Returns the error of a request that was answered with a status. The connection itself knows
    /// best why it was lost, for example a TLS alert.
    pub(super) async fn error_of(&self, status: &Status) -> SolveError {
        match SolveError::of(status) {
            SolveError::ConnectionLost(transport) => {
                SolveError::ConnectionLost(self.lost_soon().await.unwrap_or(transport))
            }
            answer => answer,
        }
    }

    /// Returns why the connection is lost, if it is: its requests may fail a moment earlier.
    pub(super) async fn lost_soon(&self) -> Option<ConnectionLost> {
        tokio::time::timeout(LOST_TIMEOUT, self.lost()).await.ok()
    }

    /// Waits until the connection is lost.
    pub async fn lost(&self) -> ConnectionLost {
        let mut lost = self.lost.clone();
        let ended = lost.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|lost| lost.clone())
            .unwrap_or_else(|| ConnectionLost("the connection task ended".to_owned()))
    }
}

/// Returns the innermost source of an error.
fn root_cause(error: &dyn StdError) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.last().map_or_else(String::new, ToString::to_string)
}

fn client_config(tls: &ClientTls) -> Result<ClientConfig, ConnectError> {
    let invalid = |what: &str, error: &dyn fmt::Display| {
        ConnectError::Settings(format!("the {what} cannot be used: {error}"))
    };
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&tls.ca) {
        let authority = authority.map_err(|error| invalid("CA certificate", &error))?;
        roots.add(authority).map_err(|error| invalid("CA certificate", &error))?;
    }
    if roots.is_empty() {
        return Err(invalid("CA certificate", &"the PEM text holds none"));
    }
    let certificates = CertificateDer::pem_slice_iter(&tls.certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid("client certificate", &error))?;
    let key =
        PrivateKeyDer::from_pem_slice(&tls.key).map_err(|error| invalid("client key", &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("protocol", &error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates, key)
        .map_err(|error| invalid("client certificate or key", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Sends the requests of tonic's generated client over the connection.
#[derive(Clone)]
pub struct Channel {
    sender: http2::SendRequest<Body>,
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    /// A lost connection fails the request instead: of an error of this method, the generated
    /// client keeps the text only, so that it would look like an answer of the daemon.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, PathBuf};

    #[test]
    fn an_address_is_a_unix_socket_or_a_host_and_port() {
        for (text, expected) in [
            ("unix:///run/sock", Some(Address::Unix(PathBuf::from("/run/sock")))),
            (
                "tcp://b.example:1234",
                Some(Address::Tcp { host: "b.example".to_owned(), port: 1234 }),
            ),
            ("tcp://[fd00::1]:1234", Some(Address::Tcp { host: "fd00::1".to_owned(), port: 1234 })),
            ("tcp://b.example", None),
            ("tcp://:1234", None),
            ("unix://", None),
            ("docker-container://x", None),
        ] {
            let parsed = text.parse::<Address>();
            assert_eq!(parsed.as_ref().ok(), expected.as_ref(), "{text}");
            if let Ok(address) = parsed {
                assert_eq!(address.to_string(), text);
            }
        }
    }
}
