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

use super::outage::{
    Blind, CALL, FORBIDDEN, PAUSE, SILENT, given_up, is_refusal, is_there_already, patiently, words,
};
use crate::api::{OciBuild, OciBuildSpec, RENEWED_ANNOTATION, TRANSFER_ANNOTATION};

/// How often a lease is renewed at least; a short one more often.
const RENEWAL: Duration = Duration::from_secs(15);

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
    pub async fn create(
        &self,
        mut spec: OciBuildSpec,
        secret: BTreeMap<String, ByteString>,
    ) -> Result<(), kube::Error> {
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
            Err(error) if is_there_already(&error) => {
                patiently(|| self.builds.get(&self.name)).await
            }
            made => made,
        }
    }

    async fn add_secret(
        &self,
        build: &OciBuild,
        data: BTreeMap<String, ByteString>,
    ) -> Result<(), kube::Error> {
        let owner = OwnerReference {
            api_version: OciBuild::api_version(&()).into_owned(),
            kind: OciBuild::kind(&()).into_owned(),
            name: build.name_any(),
            uid: build.uid().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        let secret =
            Secret { metadata, data: Some(data), immutable: Some(true), ..Secret::default() };
        let parameters = PostParams::default();
        match patiently(|| self.secrets.create(&parameters, &secret)).await {
            Err(error) if !is_there_already(&error) => return Err(error),
            _ => {}
        }
        let (parameters, released) =
            (PatchParams::default(), Patch::Merge(json!({ "spec": { "suspend": false } })));
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
        let (mut number, mut answered, mut pause): (u64, Instant, Duration) =
            (0, Instant::now(), renewal);
        loop {
            tokio::time::sleep(pause).await;
            number += 1;
            let renewed = Patch::Merge(
                json!({ "metadata": { "annotations": { RENEWED_ANNOTATION: number.to_string() } } }),
            );
            let parameters = PatchParams::default();
            let renewed =
                timeout(CALL, self.builds.patch_metadata(&self.name, &parameters, &renewed)).await;
            let (words, patience, is_forbidden) = match renewed {
                Ok(Ok(_)) => {
                    (answered, pause) = (Instant::now(), renewal);
                    continue;
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                    return Lost::Deleted(self.name.clone());
                }
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
                    (status.message, FORBIDDEN, true)
                }
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
        let mut events =
            watcher::watch_object(self.builds.clone(), &self.name).default_backoff().boxed();
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

fn random_token() -> String {
    let mut bytes = [0; 32];
    // Without random numbers there is no TLS either, and so no API server to talk to.
    let _ = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    hex::encode(bytes)
}
