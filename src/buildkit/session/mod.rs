//! A session: the services that the client offers to the daemon while a solve runs.
//!
//! The daemon calls them through the tunnel that [`Control.Session`](tunnel) is: it is the client
//! of an HTTP/2 connection inside of the one to the daemon. One session serves one solve, because
//! an export is found by its index among the exporters of that solve.

mod auth;
mod content;
mod dispatch;
mod export;
mod file_sync;
mod secrets;
mod ssh;
mod tunnel;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::{sync::watch, task::AbortHandle};
use tonic::{
    Request,
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
};

#[doc(hidden)]
pub use self::dispatch::router;
use self::export::Exports;
pub use self::{
    export::{Consumer, ExportReader},
    secrets::{MAX_SECRET_BYTES, Secret, SecretTooLarge},
};
use super::{
    auth::{RandomError, TokenAuthority},
    connection::Connection,
    error::SolveError,
    sender::{Directory, Progress},
    ssh_agent::SshAgent,
};

/// How long the daemon may take to answer `Control.Session`.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Larger than the windows of all streams that may stall together: the health check must pass
/// while a slow disk holds back an export.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Ignore patterns travel in request headers, one header each.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 20;

/// Each may hold headers of that size. A solve has a few of them at a time.
const MAX_CONCURRENT_REQUESTS: u32 = 64;
/// How long a consumer may take to end after its export has.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(10);

const SESSION_ID: &str = "x-docker-expose-session-uuid";
const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
const SHARED_KEY_ENCODED: &str = "x-docker-expose-session-sharedkey-encoded";
const METHOD: &str = "x-docker-expose-session-grpc-method";

/// Services offered to the daemon during a solve.
#[derive(Default)]
pub struct Services {
    /// Names the origin of the directories. The daemon keeps an upload under this key and the
    /// directory's name, and requests only files whose metadata differ: two sources with one key
    /// receive each other's files.
    pub shared_key: String,
    /// Directories by the name that `local://NAME` has, such as `context` and `dockerfile`.
    pub directories: BTreeMap<String, Arc<Directory>>,
    /// Counts what is sent of the directories.
    pub progress: Arc<Progress>,
    /// Build secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// SSH agents by id.
    pub ssh: BTreeMap<String, SshAgent>,
    /// Roots of OCI layouts by name.
    pub layouts: BTreeMap<String, PathBuf>,
    /// Fetches the tokens of registries; without it, every registry is asked anonymously.
    pub auth: Option<Arc<TokenAuthority>>,
}

/// The first error of a session service; it is more specific than the daemon's.
#[derive(Clone, Default)]
struct FirstError(Arc<Mutex<Option<SolveError>>>);

impl FirstError {
    fn record(&self, error: SolveError) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn take(&self) -> Option<SolveError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An open session. It ends when this value is dropped.
pub struct Session {
    id: String,
    first_error: FirstError,
    exports: Arc<Exports>,
    ended: watch::Receiver<Option<String>>,
    serving: AbortHandle,
}

impl Session {
    /// Opens a session that offers these services.
    pub async fn open(
        connection: &Connection,
        services: Services,
        consumers: BTreeMap<usize, Consumer>,
    ) -> Result<Self, SolveError> {
        let opening = Self::open_untimed(connection, services, consumers);
        let opening = tokio::time::timeout(OPEN_TIMEOUT, opening);
        opening.await.unwrap_or_else(|_| {
            let seconds = OPEN_TIMEOUT.as_secs();
            Err(SolveError::SessionLost(format!("not opened within {seconds}s")))
        })
    }

    async fn open_untimed(
        connection: &Connection,
        services: Services,
        consumers: BTreeMap<usize, Consumer>,
    ) -> Result<Self, SolveError> {
        let id = unique_id()?;
        let first_error = FirstError::default();
        let (writer, messages) = tunnel::outgoing();
        let mut request = Request::new(messages);
        describe(&mut request, &id, &services);
        let response = connection.control().session(request).await;
        let response = match response {
            Ok(response) => response,
            Err(status) => return Err(connection.error_of(&status).await),
        };
        let reader = tunnel::incoming(response.into_inner());
        let exports = Arc::new(Exports::new(consumers));
        let router = dispatch::Router::new(services, exports.clone(), &first_error);
        let serving = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .max_concurrent_streams(MAX_CONCURRENT_REQUESTS)
            .serve_connection(TokioIo::new(tokio::io::join(reader, writer)), router);
        let (ending, ended) = watch::channel(None);
        let task = tokio::spawn(async move {
            let words = match serving.await {
                Ok(()) => "the daemon closed it".to_owned(),
                Err(error) => error.to_string(),
            };
            ending.send_replace(Some(words));
        });
        Ok(Self { id, first_error, exports, ended, serving: task.abort_handle() })
    }

    /// The identifier that a solve names the session by.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits until the daemon ends the session, and returns why.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let words = ended.wait_for(Option::is_some).await.ok().and_then(|words| words.clone());
        words.unwrap_or_else(|| "the session task ended".to_owned())
    }

    /// Ends the session. A solve that uses it fails with [`SolveError::SessionLost`].
    pub fn close(&self) {
        self.serving.abort();
    }

    /// Waits until the consumers of the exports have ended. A daemon that reports success must have
    /// sent all of them; after a failure, the session is closed first, so that they end.
    pub(super) async fn finish_exports(&self, is_success: bool) -> Result<(), SolveError> {
        if !is_success {
            self.close();
        }
        let finished = tokio::time::timeout(CONSUMER_TIMEOUT, self.exports.finish()).await;
        let missing = |exporter, what: &str| {
            Err(SolveError::Export { exporter, source: io::Error::other(what.to_owned()) })
        };
        match finished {
            Ok(None) => self.take_error().map_or(Ok(()), Err),
            Ok(Some(exporter)) => missing(exporter, "BuildKit did not send it"),
            Err(_) => missing(0, "it was not written in time"),
        }
    }

    /// The first error of a service, which is the reason for what the daemon reports.
    pub(super) fn take_error(&self) -> Option<SolveError> {
        self.first_error.take()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

/// Returns 128 random bits in hexadecimal. Whoever knows a session's id can use its services, so
/// they must not be predictable.
pub fn unique_id() -> Result<String, RandomError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| RandomError)?;
    Ok(hex::encode(bytes))
}

/// Adds the session's id, shared key and methods to the request.
fn describe(request: &mut Request<impl Sized>, id: &str, services: &Services) {
    let (shared_key, is_encoded) = encode_header(&services.shared_key);
    let mut headers = vec![(SESSION_ID, id.to_owned()), (SHARED_KEY, shared_key)];
    if is_encoded {
        headers.push((SHARED_KEY_ENCODED, "1".to_owned()));
    }
    headers.extend(dispatch::METHODS.iter().map(|method| (METHOD, (*method).to_owned())));
    for (name, value) in headers {
        // Every value is printable ASCII by now.
        if let Ok(value) = AsciiMetadataValue::try_from(value) {
            request.metadata_mut().append(AsciiMetadataKey::from_static(name), value);
        }
    }
}

/// Returns the value, query-escaped if necessary, and whether it was escaped.
fn encode_header(value: &str) -> (String, bool) {
    if value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return (value.to_owned(), false);
    }
    (form_urlencoded::byte_serialize(value.as_bytes()).collect(), true)
}

#[cfg(test)]
mod tests {
    use super::encode_header;

    #[test]
    fn a_header_that_is_not_printable_ascii_is_escaped() {
        for (value, expected) in [
            ("team/app:main 1", ("team/app:main 1", false)),
            ("größe x\n", ("gr%C3%B6%C3%9Fe+x%0A", true)),
        ] {
            assert_eq!(encode_header(value), (expected.0.to_owned(), expected.1), "{value:?}");
        }
    }
}
