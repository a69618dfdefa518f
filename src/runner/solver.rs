//! Runs solves on the daemon: their events go to the tracker and to the log, and a reason to stop
//! cancels them.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use super::{
    progress::{SharedTracker, Tracker},
    registry_auth::RegistryLogins,
    result::BuildFailure,
    stop::Stop,
};
use crate::{
    api::FailureReason,
    buildkit::{
        Connection, Event, ExporterResponse, Services, Solve, SolveError,
        auth::{BasicError, RandomError, TokenAuthority},
        unique_id,
    },
};

/// The vertex by which the frontend says which base image it looks up.
const METADATA_VERTEX: &str = "[internal] load metadata for ";

/// What all solves of a build share.
#[derive(Clone)]
pub struct Solver {
    connection: Connection,
    logins: Arc<RegistryLogins>,
    authority: Arc<TokenAuthority>,
    tracker: SharedTracker,
    shared_key: String,
}

impl Solver {
    pub fn new(
        connection: Connection,
        logins: Arc<RegistryLogins>,
        tracker: SharedTracker,
    ) -> Result<Self, BuildFailure> {
        let authority = TokenAuthority::new(logins.clone(), logins.clone());
        let internal =
            |error: RandomError| BuildFailure::new(FailureReason::Internal, error.to_string());
        let authority = Arc::new(authority.map_err(internal)?);
        let shared_key = unique_id().map_err(internal)?;
        Ok(Self { connection, logins, authority, tracker, shared_key })
    }

    pub fn logins(&self) -> &RegistryLogins {
        &self.logins
    }

    pub fn authority(&self) -> &TokenAuthority {
        &self.authority
    }

    pub fn tracker(&self) -> &SharedTracker {
        &self.tracker
    }

    /// Returns the services that every solve offers.
    ///
    /// The shared key is random: the daemon compares files by their metadata alone, and with the
    /// key of another source it would take that source's files for this one's.
    pub fn services(&self) -> Services {
        Services {
            shared_key: self.shared_key.clone(),
            auth: Some(self.authority.clone()),
            ..Services::default()
        }
    }

    /// Runs a solve, cancelled by `stop` or a credential conflict.
    pub async fn run(&self, solve: Solve, stop: &mut Stop) -> Result<ExporterResponse, SolveError> {
        let conflict = CredentialConflict::default();
        let phases = stop.clone();
        let cancel = async {
            tokio::select! {
                () = stop.asked() => {}
                () = conflict.found.notified() => {}
            }
            self.tracker.with(Tracker::stop);
        };
        let observe = |event: Event| {
            if let Event::Vertex(vertex) = &event
                && let Some(image) = vertex.name.strip_prefix(METADATA_VERTEX)
            {
                conflict.record(self.logins.use_image(image));
            }
            let (lines, phase) =
                self.tracker.with(|tracker| (tracker.event(event), tracker.phase()));
            phases.follow(phase);
            print(&lines);
        };
        let result = solve.run(&self.connection, cancel, observe).await;
        result.map_err(|error| conflict.take().map_or(error, SolveError::Credentials))
    }
}

/// A credential conflict found during the solve.
#[derive(Default)]
struct CredentialConflict {
    error: Mutex<Option<BasicError>>,
    found: Notify,
}

impl CredentialConflict {
    fn record(&self, result: Result<(), BasicError>) {
        if let Err(error) = result {
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            self.found.notify_one();
        }
    }

    fn take(&self) -> Option<BasicError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Prints lines to the log. Ignores write errors: a closed log must not fail the build.
pub fn print(lines: &[String]) {
    if !lines.is_empty() {
        let mut text = lines.join("\n");
        text.push('\n');
        let _ = io::stdout().lock().write_all(text.as_bytes());
    }
}
