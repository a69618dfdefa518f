//! The only writer: everything that the controller changes in the cluster is changed here.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tracing::{Instrument, field::Empty};

use super::{watched_build::WholeBuild, watched_pod::WatchedPod};
use crate::{
    api::{FailureReason, OciBuild, OciBuildStatus},
    runner::result::BuildFailure,
};

/// Name under which the controller owns the fields that it applies.
pub const FIELD_MANAGER: &str = "ocibuild";

/// How the making of a pod or a claim went.
#[derive(Debug)]
pub enum Creation {
    /// It is there, made now or before, and belongs to the build.
    Done {
        /// When.
        made: Made,
        /// Its metadata.
        metadata: Box<ObjectMeta>,
    },
    /// The name is taken by something else.
    NameTaken {
        /// It is going away, or belongs to a build that is.
        may_pass: bool,
    },
    /// The API server refuses it.
    Refused(Refusal),
}

/// Whether something was made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Just now.
    Now,
    /// It was there.
    Before,
}

/// Why the API server refuses to make something.
#[derive(Debug)]
pub struct Refusal {
    /// The reason's name and the server's words.
    pub failure: BuildFailure,
    /// It may be made later, as it is.
    pub may_pass: bool,
    /// The Pod Security admission refuses it.
    pub by_pod_security: bool,
}

/// Writes to the cluster and counts what it writes.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    metrics: Arc<super::metrics::Metrics>,
}

impl Writer {
    /// A writer over a client.
    pub fn new(client: Client, metrics: Arc<super::metrics::Metrics>) -> Self {
        Self { client, metrics }
    }

    /// Asks the API server to change something: it is counted, and is a span of the reconcile's trace.
    async fn write<T>(
        &self,
        verb: &'static str,
        what: &'static str,
        name: &str,
        asked: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        self.metrics.write(what);
        let span = tracing::info_span!(
            "write",
            otel.name = %format_args!("{verb} {what}"),
            otel.kind = "client",
            verb,
            what,
            object = name,
            otel.status_code = Empty,
            otel.status_description = Empty,
        );
        let answer = asked.instrument(span.clone()).await;
        if let Err(error) = &answer {
            span.record("otel.status_code", "ERROR")
                .record("otel.status_description", tracing::field::display(error));
        }
        answer
    }

    /// Writes the status, provided that the object is still the one that was read: a decision from a stale cache is refused
    /// with 409 and made anew.
    pub async fn status(
        &self,
        build: &OciBuild,
        status: &OciBuildStatus,
    ) -> Result<OciBuild, kube::Error> {
        let api: Api<WholeBuild> =
            Api::namespaced(self.client.clone(), &build.namespace().unwrap_or_default());
        let patch = json!({
            "apiVersion": "ocibuild.dev/v1alpha1",
            "kind": "OciBuild",
            "metadata": { "resourceVersion": build.metadata.resource_version, "uid": build.metadata.uid },
            "status": status,
        });
        let (name, parameters, patch) =
            (build.name_any(), PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(patch));
        self.write("patch", "status", &name, api.patch_status(&name, &parameters, &patch))
            .await
            .map(OciBuild::from)
    }

    /// Makes a pod. Its name is that of the attempt, so two controllers at once still make one.
    pub async fn create_pod(&self, pod: &Pod, owner: &str) -> Result<Creation, kube::Error> {
        self.create("pod", pod, owner).await
    }

    /// Makes the claim of a build's own.
    pub async fn create_claim(
        &self,
        claim: &PersistentVolumeClaim,
        owner: &str,
    ) -> Result<Creation, kube::Error> {
        self.create("claim", claim, owner).await
    }

    async fn create<K>(
        &self,
        what: &'static str,
        object: &K,
        owner: &str,
    ) -> Result<Creation, kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let api: Api<K> =
            Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let parameters =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.write("create", what, &object.name_any(), api.create(&parameters, object)).await
        {
            Ok(created) => {
                Ok(Creation::Done { made: Made::Now, metadata: Box::new(created.meta().clone()) })
            }
            Err(error) if is_already_there(&error) => {
                let there = api.get_opt(&object.name_any()).await?;
                // Gone again between the two calls, or not the build's: either way the name is not free yet.
                let Some(there) = there else { return Ok(Creation::NameTaken { may_pass: true }) };
                let owners = there.owner_references();
                if owners.iter().any(|reference| reference.uid == owner) {
                    return Ok(Creation::Done {
                        made: Made::Before,
                        metadata: Box::new(there.meta().clone()),
                    });
                }
                let is_of_a_build =
                    owners.iter().any(|reference| reference.kind == OciBuild::kind(&()));
                Ok(Creation::NameTaken {
                    may_pass: is_of_a_build || there.meta().deletion_timestamp.is_some(),
                })
            }
            Err(error) => refusal(error).map(Creation::Refused),
        }
    }

    /// Deletes a build that was kept for long enough, if nobody has changed it since.
    pub async fn delete_build(&self, build: &OciBuild) -> Result<(), kube::Error> {
        let api: Api<OciBuild> =
            Api::namespaced(self.client.clone(), &build.namespace().unwrap_or_default());
        let unchanged = Preconditions {
            uid: build.metadata.uid.clone(),
            resource_version: build.metadata.resource_version.clone(),
        };
        let parameters =
            DeleteParams { preconditions: Some(unchanged), ..DeleteParams::background() };
        let name = build.name_any();
        match self.write("delete", "ocibuild", &name, api.delete(&name, &parameters)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes a pod, if it is still that very pod.
    pub async fn delete_pod(&self, pod: &WatchedPod) -> Result<(), kube::Error> {
        let api: Api<WatchedPod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let that_pod = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let parameters =
            DeleteParams { preconditions: Some(that_pod), ..DeleteParams::background() };
        let name = pod.name_any();
        match self.write("delete", "pod", &name, api.delete(&name, &parameters)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn is_already_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

fn refusal(error: kube::Error) -> Result<Refusal, kube::Error> {
    let kube::Error::Api(status) = &error else { return Err(error) };
    let message = status.message.clone();
    let Some((reason, may_pass)) = named(status.code, &message) else { return Err(error) };
    let by_pod_security = message.contains("violates PodSecurity");
    Ok(Refusal { failure: BuildFailure::new(reason, message), may_pass, by_pod_security })
}

/// The name of what the API server answers, and whether it may answer otherwise later. Nothing for a fault of the API server.
fn named(code: u16, message: &str) -> Option<(FailureReason, bool)> {
    let has = |words: &str| message.contains(words);
    // Policy engines answer with codes of their own: "admission webhook … denied the request", "ValidatingAdmissionPolicy … denied request".
    let is_denied = has("denied the request") || has("denied request");
    Some(match code {
        403 if has("exceeded quota") => (FailureReason::QuotaExceeded, true),
        403 if has("is being terminated") => (FailureReason::Cancelled, true),
        // The operator's own rights.
        403 if has("cannot create resource") => (FailureReason::Internal, true),
        // That of a namespace which was just made comes a moment later.
        403 if has("error looking up service account") => (FailureReason::AdmissionRefused, true),
        403 => (FailureReason::AdmissionRefused, false),
        400..500 if is_denied => (FailureReason::AdmissionRefused, false),
        400 | 422 => (FailureReason::InvalidSpec, false),
        500 if has("failed calling webhook") => (FailureReason::AdmissionRefused, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{FailureReason, named};

    #[test]
    fn refusals_have_names_and_some_may_pass() {
        for (code, message, expected) in [
            (
                403,
                "pods \"app-g1-a1\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=0, limited: pods=0",
                Some((FailureReason::QuotaExceeded, true)),
            ),
            (
                403,
                "pods \"app-g1-a1\" is forbidden: violates PodSecurity \"restricted:latest\": seccompProfile",
                Some((FailureReason::AdmissionRefused, false)),
            ),
            (
                403,
                "pods \"app-g1-a1\" is forbidden: error looking up service account a/default: serviceaccount \"default\" not found",
                Some((FailureReason::AdmissionRefused, true)),
            ),
            (
                422,
                "pods \"app-g1-a1\" is forbidden: ValidatingAdmissionPolicy 'centre' with binding 'centre' denied request: no centre",
                Some((FailureReason::AdmissionRefused, false)),
            ),
            (
                400,
                "admission webhook \"validate.example.com\" denied the request: no",
                Some((FailureReason::AdmissionRefused, false)),
            ),
            (
                409,
                "admission webhook \"once.example.com\" denied the request: there is one already",
                Some((FailureReason::AdmissionRefused, false)),
            ),
            (
                413,
                "pods \"app-g1-a1\" is forbidden: ValidatingAdmissionPolicy 'size' with binding 'size' denied request: too large",
                Some((FailureReason::AdmissionRefused, false)),
            ),
            (
                409,
                "Operation cannot be fulfilled on resourcequotas \"small\": the object has been modified",
                None,
            ),
            (
                500,
                "Internal error occurred: failed calling webhook \"validate.example.com\": failed to call webhook: EOF",
                Some((FailureReason::AdmissionRefused, true)),
            ),
            (
                403,
                "pods is forbidden: User \"system:serviceaccount:a:b\" cannot create resource \"pods\" in API group \"\"",
                Some((FailureReason::Internal, true)),
            ),
            (
                422,
                "Pod \"app-g1-a1\" is invalid: spec.priorityClassName",
                Some((FailureReason::InvalidSpec, false)),
            ),
            (500, "etcdserver: request timed out", None),
            (429, "too many requests", None),
        ] {
            assert_eq!(named(code, message), expected, "{message}");
        }
    }
}
