//! Makes a build and its Secret, keeps its lease, tells how it stands, and takes it away.

use std::{collections::BTreeMap, time::Duration};

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
use tokio::sync::watch;

use crate::api::{OciBuild, OciBuildSpec, RENEWED_ANNOTATION};

/// How often a lease is renewed.
const RENEWAL: Duration = Duration::from_secs(15);

/// A build that was made here.
#[derive(Clone)]
pub struct Submission {
    builds: Api<OciBuild>,
    pods: Api<Pod>,
    name: String,
}

/// What is known of a build.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Nothing yet.
    Nothing,
    /// It is there.
    Build(Box<OciBuild>),
    /// Somebody deleted it.
    Deleted,
}

impl Submission {
    /// Makes a build with its Secret. Where there is one the build is held back until the Secret is there: the Secret belongs
    /// to the build, and goes with it.
    pub async fn create(
        client: &Client,
        namespace: &str,
        name: &str,
        mut spec: OciBuildSpec,
        secret: BTreeMap<String, ByteString>,
    ) -> Result<Self, kube::Error> {
        let builds: Api<OciBuild> = Api::namespaced(client.clone(), namespace);
        let submission = Self { pods: Api::namespaced(client.clone(), namespace), builds, name: name.to_owned() };
        spec.suspend = !secret.is_empty();
        let build = submission.builds.create(&PostParams::default(), &OciBuild::new(name, spec)).await?;
        if !secret.is_empty() {
            let made = submission.add_secret(client, namespace, &build, secret).await;
            if let Err(error) = made {
                let _ = submission.delete().await;
                return Err(error);
            }
        }
        Ok(submission)
    }

    async fn add_secret(
        &self,
        client: &Client,
        namespace: &str,
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
        let metadata = ObjectMeta { name: Some(self.name.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
        let secret = Secret { metadata, data: Some(data), immutable: Some(true), ..Secret::default() };
        Api::<Secret>::namespaced(client.clone(), namespace).create(&PostParams::default(), &secret).await?;
        let released = Patch::Merge(json!({ "spec": { "suspend": false } }));
        self.builds.patch(&self.name, &PatchParams::default(), &released).await.map(drop)
    }

    /// The build's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pods of its namespace.
    pub fn pods(&self) -> &Api<Pod> {
        &self.pods
    }

    /// Renews the build's lease for as long as it is polled; it never ends by itself.
    pub async fn keep_lease(&self) {
        let mut number: u64 = 0;
        loop {
            tokio::time::sleep(RENEWAL).await;
            number += 1;
            let renewed = Patch::Merge(json!({ "metadata": { "annotations": { RENEWED_ANNOTATION: number.to_string() } } }));
            // The next one comes soon, and the lease lasts for several.
            let _ = self.builds.patch_metadata(&self.name, &PatchParams::default(), &renewed).await;
        }
    }

    /// Tells how the build stands, from now on.
    pub fn watch(&self) -> watch::Receiver<Seen> {
        let (sender, receiver) = watch::channel(Seen::Nothing);
        let mut events = watcher::watch_object(self.builds.clone(), &self.name).default_backoff().boxed();
        tokio::spawn(async move {
            let mut was_there = false;
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = sender.closed() => return,
                };
                match event {
                    Some(Ok(Some(build))) => {
                        was_there = true;
                        sender.send_replace(Seen::Build(Box::new(build)));
                    }
                    Some(Ok(None)) if was_there => {
                        sender.send_replace(Seen::Deleted);
                    }
                    Some(_) => {}
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
}
