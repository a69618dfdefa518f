//! Runs a solve: sends the request, forwards events, returns the exporter response.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use serde_json::json;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{
    connection::Connection,
    error::{SolveError, truncated},
    event::{Event, events},
    proto::{moby::buildkit::v1 as api, pb},
    session::{Consumer, Services, Session, unique_id},
};

/// Timeout for each event after the solve has ended. The last events may come after the result.
const LAST_EVENTS_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for events after cancellation; they name the interrupted step.
const CANCELLED_EVENTS_TIMEOUT: Duration = Duration::from_millis(500);
/// The longest time for these events together.
const MAX_LAST_EVENTS_TIME: Duration = Duration::from_secs(30);
/// Names of vertices that are kept to name the one that failed.
const MAX_NAMED_VERTICES: usize = 10_000;
/// Bytes of a name that is kept. Frontends choose the names.
const MAX_VERTEX_NAME_BYTES: usize = 512;
/// Bytes of a digest that is kept: more than `sha512:` and its 128 digits.
const MAX_DIGEST_BYTES: usize = 256;

/// What a solve builds.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A frontend of the daemon, such as `dockerfile.v0`, and its attributes.
    Frontend { name: String, attributes: BTreeMap<String, String> },
    /// An LLB definition.
    Definition(pb::Definition),
}

/// An exporter. The daemon pushes `image`; it streams `docker`, `oci` and `tar` to the client.
pub struct Exporter {
    pub kind: String,
    pub attributes: BTreeMap<String, String>,
    /// Takes the export; `None` for an exporter that sends the client nothing.
    pub consumer: Option<Consumer>,
}

/// A cache that the solve reads or writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// For example `registry`.
    pub kind: String,
    pub attributes: BTreeMap<String, String>,
}

/// Everything that one solve needs.
pub struct Solve {
    pub input: Input,
    pub exporters: Vec<Exporter>,
    pub cache_imports: Vec<CacheEntry>,
    pub cache_exports: Vec<CacheEntry>,
    /// What the solve offers to the daemon besides taking its exports.
    pub services: Services,
}

/// Values returned by the exporters, for example `containerimage.digest`.
pub type ExporterResponse = HashMap<String, String>;

impl Solve {
    /// Runs the solve until it ends or `cancel` does, and hands each event to `observe`.
    ///
    /// A cancelled solve ends its running steps within a second.
    pub async fn run(
        mut self,
        connection: &Connection,
        cancel: impl Future<Output = ()>,
        mut observe: impl FnMut(Event),
    ) -> Result<ExporterResponse, SolveError> {
        let (services, consumers) = (std::mem::take(&mut self.services), self.take_consumers());
        let mut cancel = pin!(cancel);
        let session = tokio::select! {
            session = Session::open(connection, services, consumers) => session?,
            () = &mut cancel => return Err(SolveError::Cancelled),
        };
        let request = self.request(session.id(), unique_id()?);
        let mut names = VertexNames::default();
        let observe = |event: Event| {
            names.add(&event);
            observe(event);
        };
        let answer = await_response(connection, &session, request, cancel, observe).await;
        let result = match answer {
            Ok(Ok(response)) => Ok(response.exporter_response.into_iter().collect()),
            Ok(Err(status)) => Err(failure(connection, &session, &status, &names).await),
            Err(error) => Err(error),
        };
        // Also after an error: nothing writes any more once the caller cleans up.
        let exported = session.finish_exports(result.is_ok()).await;
        result.and_then(|response| exported.map(|()| response))
    }

    /// Takes the consumers, under the index by which the daemon names their exporters.
    fn take_consumers(&mut self) -> BTreeMap<usize, Consumer> {
        (0..)
            .zip(&mut self.exporters)
            .filter_map(|(index, exporter)| Some((index, exporter.consumer.take()?)))
            .collect()
    }

    fn request(self, session: &str, reference: String) -> api::SolveRequest {
        let entries = |entries: Vec<CacheEntry>| -> Vec<api::CacheOptionsEntry> {
            let entries = entries.into_iter();
            let entry = |entry: CacheEntry| api::CacheOptionsEntry {
                r#type: entry.kind,
                attrs: entry.attributes.into_iter().collect(),
            };
            entries.map(entry).collect()
        };
        let imports = entries(self.cache_imports);
        let (frontend, mut attributes, definition) = match self.input {
            Input::Frontend { name, attributes } => (name, attributes, None),
            Input::Definition(definition) => (String::new(), BTreeMap::new(), Some(definition)),
        };
        if !imports.is_empty() && !frontend.is_empty() {
            attributes.insert("cache-imports".to_owned(), cache_imports(&imports));
        }
        let exporters = self.exporters.into_iter().map(|exporter| api::Exporter {
            r#type: exporter.kind,
            attrs: exporter.attributes.into_iter().collect(),
        });
        api::SolveRequest {
            r#ref: reference,
            definition,
            session: session.to_owned(),
            frontend,
            frontend_attrs: attributes.into_iter().collect(),
            exporters: exporters.collect(),
            cache: Some(api::CacheOptions {
                exports: entries(self.cache_exports),
                imports,
                ..api::CacheOptions::default()
            }),
            ..api::SolveRequest::default()
        }
    }
}

/// A frontend reads the caches that it imports from an attribute, as JSON.
fn cache_imports(imports: &[api::CacheOptionsEntry]) -> String {
    let imports = imports.iter().map(|import| {
        let attributes: BTreeMap<_, _> = import.attrs.iter().collect();
        json!({ "Type": import.r#type, "Attrs": attributes })
    });
    imports.collect::<serde_json::Value>().to_string()
}

/// Sends a request and forwards its events, until the daemon answers, the connection or the session
/// is lost, or the caller cancels.
async fn await_response(
    connection: &Connection,
    session: &Session,
    request: api::SolveRequest,
    mut cancel: impl Future<Output = ()> + Unpin,
    mut observe: impl FnMut(Event),
) -> Result<Result<api::SolveResponse, Status>, SolveError> {
    let mut updates = Updates::open(connection, request.r#ref.clone());
    let mut control = connection.control();
    let mut solving = Box::pin(control.solve(request));
    let mut observe = |update| events(update).for_each(&mut observe);
    let result = loop {
        tokio::select! {
            // In this order: what happens at the same time as the answer does not undo it, and no
            // number of events delays a cancellation.
            biased;
            result = &mut solving => break Ok(result.map(tonic::Response::into_inner)),
            lost = connection.lost() => break Err(SolveError::ConnectionLost(lost)),
            reason = session.ended() => break Err(SolveError::SessionLost(reason)),
            () = &mut cancel => break Err(SolveError::Cancelled),
            Some(update) = updates.next() => observe(update),
        }
    };
    // Dropping the request cancels it in the daemon.
    drop(solving);
    let result = match result {
        // A session ends with its connection.
        Err(SolveError::SessionLost(reason)) => match connection.lost_soon().await {
            Some(lost) => Err(SolveError::ConnectionLost(lost)),
            None => Err(SolveError::SessionLost(reason)),
        },
        result => result,
    };
    let silence = match &result {
        Ok(_) => LAST_EVENTS_TIMEOUT,
        Err(SolveError::ConnectionLost(_)) => Duration::ZERO,
        Err(_) => CANCELLED_EVENTS_TIMEOUT,
    };
    let until = Instant::now() + MAX_LAST_EVENTS_TIME;
    while let Ok(Some(update)) = timeout(silence, updates.next()).await
        && Instant::now() < until
    {
        observe(update);
    }
    result
}

type OpeningUpdates = BoxFuture<'static, Option<OpenUpdates>>;
type OpenUpdates = Box<Streaming<api::StatusResponse>>;

/// The messages of `Control.Status`. An error ends them: `Control.Solve` reports the reason.
enum Updates {
    /// The daemon does not answer before it knows the reference.
    Opening(OpeningUpdates),
    Open(OpenUpdates),
    Ended,
}

impl Updates {
    fn open(connection: &Connection, reference: String) -> Self {
        let mut control = connection.control();
        Self::Opening(Box::pin(async move {
            let response = control.status(api::StatusRequest { r#ref: reference }).await;
            response.ok().map(|response| Box::new(response.into_inner()))
        }))
    }

    /// Returns the next message. Dropping the future loses none.
    async fn next(&mut self) -> Option<api::StatusResponse> {
        if let Self::Opening(opening) = self {
            *self = opening.await.map_or(Self::Ended, Self::Open);
        }
        let Self::Open(messages) = self else { return None };
        let message = messages.message().await.ok().flatten();
        if message.is_none() {
            *self = Self::Ended;
        }
        message
    }
}

/// Returns the most specific error: the session's, the connection's or the daemon's.
async fn failure(
    connection: &Connection,
    session: &Session,
    status: &Status,
    names: &VertexNames,
) -> SolveError {
    if let Some(error) = session.take_error() {
        return error;
    }
    match connection.error_of(status).await {
        SolveError::Failed(mut failure) => {
            if let Some(vertex) = &mut failure.vertex {
                vertex.name = names.of(&vertex.digest);
            }
            SolveError::Failed(failure)
        }
        error => error,
    }
}

/// The names of the vertices of a solve, by digest.
#[derive(Default)]
struct VertexNames(HashMap<String, String>);

impl VertexNames {
    fn add(&mut self, event: &Event) {
        if let Event::Vertex(vertex) = event
            && self.0.len() < MAX_NAMED_VERTICES
            && vertex.digest.len() <= MAX_DIGEST_BYTES
            && !self.0.contains_key(&vertex.digest)
        {
            let name = truncated(&vertex.name, MAX_VERTEX_NAME_BYTES);
            self.0.insert(vertex.digest.clone(), name);
        }
    }

    fn of(&self, digest: &str) -> Option<String> {
        self.0.get(digest).cloned()
    }
}
