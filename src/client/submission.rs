//! Makes a build and its Secret, keeps its lease, tells how it stands, and takes it away.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Pod, Secret},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    time::{timeout, timeout_at},
};

use crate::api::{OciBuild, OciBuildSpec, RENEWED_ANNOTATION, TRANSFER_ANNOTATION};

/// How often a lease is renewed at least; a short one more often.
const RENEWAL: Duration = Duration::from_secs(15);
/// How soon after a renewal that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(20);
/// How long an API server may be away, or have too much to do, while a build is made.
const AWAY: Duration = Duration::from_secs(30);
/// How long an API server that has just started may refuse whom it knows.
pub(super) const FORBIDDEN: Duration = Duration::from_secs(20);
/// A watch that is tried again fails sooner than this, if it fails again.
const LULL: Duration = Duration::from_mins(2);
/// After so long without an answer the operator has given the build up too.
const SILENT: Duration = Duration::from_mins(5);

/// A build that was made here.
#[derive(Clone)]
pub struct Submission {
    builds: Api<OciBuild>,
    pods: Api<Pod>,
    secrets: Api<Secret>,
    namespace: String,
    name: String,
    /// It goes to the runner alone, through the API server; the OciBuild has its sum.
    token: String,
}

/// Why nothing more can be learned of a build.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Lost {
    /// The token has expired, or the rights were taken away.
    #[error(
        "the API server does not let this task in any more: {0}\nThe build is cancelled when its lease is over. Give the task a token that lasts longer than its builds."
    )]
    Forbidden(String),
    /// No answer.
    #[error("the API server has not answered for 5 minutes: {0}")]
    Silent(String),
    /// It may be renewed, and not be watched.
    #[error(
        "the build cannot be watched: {0}\nThe task's account needs the right to list and watch ocibuilds: see the ClusterRole ocibuild-pipeline"
    )]
    Unwatchable(String),
    /// It says what this task does not understand.
    #[error(
        "the build's status cannot be read: {0}\nThe image of the task is of another version than the operator: take the operator's own"
    )]
    Unreadable(String),
    /// Somebody deleted it.
    #[error("the OciBuild {0} was deleted by somebody else: nothing was built")]
    Deleted(String),
}

/// What is known of a build.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Nothing yet.
    Nothing,
    /// It is there.
    Build(Box<OciBuild>),
    /// Nothing more can be learned.
    Lost(Lost),
}

impl Submission {
    /// A build of this name, which is not made yet.
    pub fn new(client: &Client, namespace: &str, name: &str) -> Self {
        Self {
            builds: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            token: random_token(),
        }
    }

    /// Makes the build with its Secret. Where there is one the build is held back until the Secret is there: the Secret belongs
    /// to the build, and goes with it.
    pub async fn create(&self, mut spec: OciBuildSpec, secret: BTreeMap<String, ByteString>) -> Result<(), kube::Error> {
        spec.suspend = !secret.is_empty();
        let mut build = OciBuild::new(&self.name, spec);
        let sum = hex::encode(Sha256::digest(&self.token));
        build.metadata.annotations = Some(BTreeMap::from([(TRANSFER_ANNOTATION.to_owned(), sum)]));
        let build = Box::pin(self.create_once(&build)).await?;
        if !secret.is_empty()
            && let Err(error) = Box::pin(self.add_secret(&build, secret)).await
        {
            let _ = timeout(CALL, self.delete()).await;
            return Err(error);
        }
        Ok(())
    }

    /// Its name is nobody else's: one that exists already was made by a call whose answer was lost.
    async fn create_once(&self, build: &OciBuild) -> Result<OciBuild, kube::Error> {
        let parameters = PostParams::default();
        match patiently(|| self.builds.create(&parameters, build)).await {
            Err(error) if is_there_already(&error) => patiently(|| self.builds.get(&self.name)).await,
            made => made,
        }
    }

    async fn add_secret(&self, build: &OciBuild, data: BTreeMap<String, ByteString>) -> Result<(), kube::Error> {
        let owner = OwnerReference {
            api_version: OciBuild::api_version(&()).into_owned(),
            kind: OciBuild::kind(&()).into_owned(),
            name: build.name_any(),
            uid: build.uid().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let metadata = ObjectMeta { name: Some(self.name.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
        let secret = Secret { metadata, data: Some(data), immutable: Some(true), ..Secret::default() };
        let parameters = PostParams::default();
        match patiently(|| self.secrets.create(&parameters, &secret)).await {
            Err(error) if !is_there_already(&error) => return Err(error),
            _ => {}
        }
        let (parameters, released) = (PatchParams::default(), Patch::Merge(json!({ "spec": { "suspend": false } })));
        patiently(|| self.builds.patch(&self.name, &parameters, &released)).await.map(drop)
    }

    /// The token of the build's client.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The build's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The build's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pods of its namespace.
    pub fn pods(&self) -> &Api<Pod> {
        &self.pods
    }

    /// Renews the build's lease for as long as it is polled; it ends only when the build is lost to this task.
    pub async fn keep_lease(&self, lease: Duration) -> Lost {
        let renewal = RENEWAL.min(lease / 4).max(PAUSE);
        let (mut number, mut answered, mut pause): (u64, Instant, Duration) = (0, Instant::now(), renewal);
        loop {
            tokio::time::sleep(pause).await;
            number += 1;
            let renewed = Patch::Merge(json!({ "metadata": { "annotations": { RENEWED_ANNOTATION: number.to_string() } } }));
            let parameters = PatchParams::default();
            let renewed = timeout(CALL, self.builds.patch_metadata(&self.name, &parameters, &renewed)).await;
            let (words, patience, is_forbidden) = match renewed {
                Ok(Ok(_)) => {
                    (answered, pause) = (Instant::now(), renewal);
                    continue;
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Lost::Deleted(self.name.clone()),
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => (status.message, FORBIDDEN, true),
                Ok(Err(error)) => (words(error), SILENT, false),
                Err(_) => (format!("no answer within {}s", CALL.as_secs()), SILENT, false),
            };
            if answered.elapsed() > patience + renewal {
                return if is_forbidden { Lost::Forbidden(words) } else { Lost::Silent(words) };
            }
            pause = PAUSE;
        }
    }

    /// Tells how the build stands, from now on.
    pub fn watch(&self) -> watch::Receiver<Seen> {
        let (sender, receiver) = watch::channel(Seen::Nothing);
        let mut events = watcher::watch_object(self.builds.clone(), &self.name).default_backoff().boxed();
        let name = self.name.clone();
        tokio::spawn(async move {
            let (mut was_there, mut blind): (bool, Option<Blind>) = (false, None);
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = sender.closed() => return,
                };
                match event {
                    Some(Ok(Some(build))) => {
                        (was_there, blind) = (true, None);
                        sender.send_replace(Seen::Build(Box::new(build)));
                    }
                    Some(Ok(None)) if was_there => {
                        sender.send_replace(Seen::Lost(Lost::Deleted(name.clone())));
                    }
                    Some(Ok(None)) => {}
                    Some(Err(error)) => {
                        let failing = Blind::again(blind, is_refusal(&error));
                        blind = Some(failing);
                        if let Some(lost) = given_up(error, failing.since.elapsed()) {
                            sender.send_replace(Seen::Lost(lost));
                        }
                    }
                    None => return,
                }
            }
        });
        receiver
    }

    /// Deletes the build with all that belongs to it. One that is gone is no error.
    pub async fn delete(&self) -> Result<(), kube::Error> {
        match self.builds.delete(&self.name, &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The same, over an API server that is away for a moment.
    pub async fn delete_within(&self, time: Duration) -> Result<(), String> {
        let end = tokio::time::Instant::now() + time;
        let mut last = format!("the API server did not answer within {}s", time.as_secs());
        loop {
            match timeout_at(end, self.delete()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = words(error),
                Err(_) => return Err(last),
            }
            if timeout_at(end, tokio::time::sleep(PAUSE)).await.is_err() {
                return Err(last);
            }
        }
    }
}

/// Asks again while the API server is away, and while one that has just come back does not know this account yet.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, kube::Error>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let (begin, mut was_away) = (Instant::now(), false);
    loop {
        let answer = timeout(CALL, Box::pin(ask())).await.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())));
        let error = match answer {
            Err(error) if begin.elapsed() < AWAY => error,
            ended => return ended,
        };
        match &error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) && was_away => {}
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => return Err(error),
            _ => was_away = true,
        }
        tracing::debug!(%error, "the API server does not answer");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A quota answers 409 too.
fn is_there_already(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

/// A watch that fails in the same way again and again.
#[derive(Clone, Copy)]
struct Blind {
    since: Instant,
    last: Instant,
    is_refused: bool,
}

impl Blind {
    /// It has failed once more. Nothing tells of a watch that works again until the build changes: what has not failed for a while
    /// has worked, and what could not be reached and is refused now has been started anew.
    fn again(before: Option<Self>, is_refused: bool) -> Self {
        let now = Instant::now();
        let same = before.filter(|before| before.is_refused == is_refused && before.last.elapsed() < LULL);
        Self { since: same.map_or(now, |same| same.since), last: now, is_refused }
    }
}

/// The failure of a watch that was answered by a refusal.
fn is_refusal(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
        }
        _ => false,
    }
}

/// What a watch that has failed for so long is worth waiting for: nothing where waiting cannot help.
fn given_up(error: watcher::Error, since: Duration) -> Option<Lost> {
    let error = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        other => return (since > SILENT).then(|| Lost::Silent(other.to_string())),
    };
    match error {
        kube::Error::SerdeError(error) => Some(Lost::Unreadable(error.to_string())),
        kube::Error::Api(status) if status.code == 403 => (since > FORBIDDEN).then_some(Lost::Unwatchable(status.message)),
        kube::Error::Api(status) if status.code == 401 => (since > FORBIDDEN).then_some(Lost::Forbidden(status.message)),
        error => (since > SILENT).then(|| Lost::Silent(words(error))),
    }
}

fn random_token() -> String {
    let mut bytes = [0; 32];
    // Without random numbers there is no TLS either, and so no API server to talk to.
    let _ = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    hex::encode(bytes)
}

/// What the API server says, without the rest of its answer; of another error all that is known.
pub fn words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        other => format!("{:#}", anyhow::Error::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        future::ready,
        time::Duration,
    };

    use kube::{core::Status, runtime::watcher};

    use super::{Blind, FORBIDDEN, Instant, Lost, SILENT, given_up, patiently};

    fn refused(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("words", "Reason").with_code(code).boxed())
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_is_asked_again_and_one_that_refuses_is_not() {
        let not_json = || kube::Error::SerdeError(serde_json::from_str::<u8>("x").unwrap_err());
        for (answers, expected, asked) in [
            (vec![Ok(())], Ok(()), 1),
            (vec![Err(refused(503)), Ok(())], Ok(()), 2),
            (vec![Err(not_json()), Ok(())], Ok(()), 2),
            (vec![Err(refused(403)), Ok(())], Err(403), 1),
            (vec![Err(refused(422)), Ok(())], Err(422), 1),
            // One that has just come back knows nobody yet.
            (vec![Err(refused(500)), Err(refused(403)), Ok(())], Ok(()), 3),
        ] {
            let (answers, count) = (RefCell::new(answers.into_iter()), Cell::new(0));
            let answer = patiently(|| {
                count.set(count.get() + 1);
                ready(answers.borrow_mut().next().unwrap())
            });
            let answer = answer.await.map_err(|error| if let kube::Error::Api(status) = error { status.code } else { 0 });
            assert_eq!((answer, count.get()), (expected, asked));
        }
    }

    #[test]
    fn a_watch_that_failed_before_an_api_server_came_back_is_not_blamed_for_it() {
        let long_ago = Instant::now().checked_sub(SILENT).unwrap();
        let before = |last, is_refused| Some(Blind { since: long_ago, last, is_refused });
        assert_eq!(Blind::again(before(Instant::now(), true), true).since, long_ago);
        for (before, is_refused) in [(before(Instant::now(), false), true), (before(long_ago, true), true), (None, true)] {
            assert!(Blind::again(before, is_refused).since > long_ago);
        }
    }

    #[test]
    fn a_watch_is_given_up_when_waiting_cannot_help() {
        let unreadable = kube::Error::SerdeError(serde_json::from_str::<u8>("x").unwrap_err());
        assert!(matches!(given_up(watcher::Error::InitialListFailed(unreadable), Duration::ZERO), Some(Lost::Unreadable(_))));
        let second = Duration::from_secs(1);
        for (code, patience, lost) in [(403, FORBIDDEN, "Unwatchable"), (401, FORBIDDEN, "Forbidden"), (500, SILENT, "Silent")] {
            let after = |since| given_up(watcher::Error::WatchStartFailed(refused(code)), since);
            assert!(after(patience).is_none(), "{code}");
            assert!(format!("{:?}", after(patience + second).unwrap()).starts_with(lost), "{code}");
        }
    }
}
