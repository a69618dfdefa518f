//! The pod of one attempt: BuildKit as a native sidecar, and the runner that drives it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        AppArmorProfile, Capabilities, Container, ContainerPort, EnvVar, Pod, PodSecurityContext,
        PodSpec, ResourceRequirements, SeccompProfile, SecurityContext, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference},
};
use kube::{Resource, api::ObjectMeta};

use super::{
    Attempt, OperatorConfig, Validated, daemon_config, layout,
    operator_config::RootlessProfiles,
    volumes::{FileAnnotations, volumes},
};
use crate::api::{OciBuild, Resources};

/// Label of everything that the operator makes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const MANAGED_BY: &str = "ocibuild";
/// Label that names the build.
pub const BUILD_LABEL: &str = "ocibuild.dev/build";
/// Label that names the generation.
pub const GENERATION_LABEL: &str = "ocibuild.dev/generation";
/// Label that names the attempt.
pub const ATTEMPT_LABEL: &str = "ocibuild.dev/attempt";
/// Annotation that says how the pod is kept apart from its node.
pub const ISOLATION_ANNOTATION: &str = "ocibuild.dev/isolation";
const INSTRUCTIONS_ANNOTATION: &str = "ocibuild.dev/instructions";
const DAEMON_CONFIG_ANNOTATION: &str = "ocibuild.dev/buildkitd.toml";
const AUTHORITIES_ANNOTATION: &str = "ocibuild.dev/authorities";

/// BuildKit's folder below its volume. The kubelet gives a volume of a pod with an fsGroup the setgid bit, and every folder made
/// below inherits it, those of images among them: so BuildKit gets a folder without it.
const PREPARE_ROOTLESS: &str =
    r#"mkdir -p "$0" && chmod g-s "$0" && exec rootlesskit buildkitd --root="$0" "$@""#;
/// The same for the image that runs as root. Its entry point is a script in newer releases.
const PREPARE: &str = r#"mkdir -p "$0" && chmod g-s "$0" && exec "$(command -v buildkitd-entrypoint || command -v buildkitd)" --root="$0" "$@""#;

/// An isolation that was decided: no `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodIsolation {
    /// BuildKit as uid 1000.
    Rootless,
    /// BuildKit as root of the pod's own user namespace.
    Userns,
    /// BuildKit as root of the node.
    Privileged,
}

impl PodIsolation {
    /// The text in annotation and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rootless => "rootless",
            Self::Userns => "userns",
            Self::Privileged => "privileged",
        }
    }
}

/// Name of the pod of an attempt. The same attempt always has the same name, so it cannot be made twice.
pub fn pod_name(build: &str, generation: i64, attempt: Attempt) -> String {
    format!("{build}-g{generation}-a{attempt}")
}

/// The attempt that a pod's name says, if it is one of this generation of this build.
pub fn attempt_of(pod: &str, build: &str, generation: i64) -> Option<Attempt> {
    let number = pod.strip_prefix(build)?.strip_prefix(&format!("-g{generation}-a"))?;
    number
        .parse()
        .ok()
        .and_then(Attempt::from_number)
        .filter(|attempt| pod_name(build, generation, *attempt) == pod)
}

/// Labels of everything that belongs to a build.
pub fn build_labels(build: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
        (BUILD_LABEL.to_owned(), build.to_owned()),
    ])
}

/// The reference by which Kubernetes deletes what belongs to a deleted build.
pub fn owner(build: &Validated) -> OwnerReference {
    OwnerReference {
        api_version: OciBuild::api_version(&()).into_owned(),
        kind: OciBuild::kind(&()).into_owned(),
        name: build.name.clone(),
        uid: build.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// The pod of one attempt.
pub fn build_pod(
    build: &Validated,
    attempt: Attempt,
    isolation: PodIsolation,
    config: &OperatorConfig,
) -> Pod {
    let daemon_config = daemon_config(build);
    let files = FileAnnotations {
        instructions: INSTRUCTIONS_ANNOTATION,
        daemon_config: daemon_config.is_some().then_some(DAEMON_CONFIG_ANNOTATION),
        authorities: (!config.ca_bundle.is_empty()).then_some(AUTHORITIES_ANNOTATION),
    };
    let state = if isolation == PodIsolation::Rootless {
        "/home/user/.local/share/buildkit"
    } else {
        "/var/lib/buildkit"
    };
    let mut mounts = Mounts::default();
    let volumes = volumes(build, state, files).into_iter().map(|volume| {
        mounts.runner.extend(volume.runner);
        mounts.daemon.extend(volume.daemon);
        volume.volume
    });
    let volumes = volumes.collect();
    Pod {
        metadata: metadata(build, attempt, isolation, daemon_config.as_deref(), config),
        spec: Some(PodSpec {
            init_containers: Some(vec![daemon(
                build,
                isolation,
                daemon_config.is_some(),
                state,
                mounts.daemon,
                config,
            )]),
            containers: vec![runner(build, mounts.runner, config)],
            volumes: Some(volumes),
            restart_policy: Some("Never".to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            host_users: (isolation == PodIsolation::Userns).then_some(false),
            security_context: Some(PodSecurityContext {
                fs_group: Some(layout::USER),
                // A volume that fits already is not walked file by file.
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                ..PodSecurityContext::default()
            }),
            active_deadline_seconds: active_deadline(build),
            termination_grace_period_seconds: Some(10),
            image_pull_secrets: (!config.images.pull_secrets.is_empty())
                .then(|| config.images.pull_secrets.clone()),
            node_selector: merged(&config.defaults.node_selector, &build.pod.node_selector),
            tolerations: tolerations(build, config),
            affinity: build.pod.affinity.clone(),
            priority_class_name: build.priority_class.clone(),
            runtime_class_name: build.pod.runtime_class_name.clone(),
            service_account_name: build.pod.service_account_name.clone(),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// A backstop only: the runner watches its time itself and says so in its result.
fn active_deadline(build: &Validated) -> Option<i64> {
    let download =
        build.instructions.output.as_ref().and_then(|output| output.download_seconds).unwrap_or(0);
    let seconds = (build.timeout + build.waits.start.0)
        .as_secs()
        .saturating_add(download)
        .saturating_add(300);
    i64::try_from(seconds).ok()
}

#[derive(Default)]
struct Mounts {
    runner: Vec<VolumeMount>,
    daemon: Vec<VolumeMount>,
}

fn metadata(
    build: &Validated,
    attempt: Attempt,
    isolation: PodIsolation,
    daemon_config: Option<&str>,
    config: &OperatorConfig,
) -> ObjectMeta {
    let mut labels = build.kueue_labels.clone();
    labels.extend(build.pod.labels.clone());
    labels.extend(build_labels(&build.name));
    labels.insert(GENERATION_LABEL.to_owned(), build.generation.to_string());
    labels.insert(ATTEMPT_LABEL.to_owned(), attempt.to_string());

    let mut annotations = build.pod.annotations.clone();
    let instructions = serde_json::to_string(&build.instructions)
        .expect("maps with text keys can always be written as JSON");
    annotations.insert(INSTRUCTIONS_ANNOTATION.to_owned(), instructions);
    if let Some(daemon_config) = daemon_config {
        annotations.insert(DAEMON_CONFIG_ANNOTATION.to_owned(), daemon_config.to_owned());
    }
    if !config.ca_bundle.is_empty() {
        annotations.insert(AUTHORITIES_ANNOTATION.to_owned(), config.ca_bundle.clone());
    }
    annotations.insert(ISOLATION_ANNOTATION.to_owned(), isolation.as_str().to_owned());
    annotations.insert(
        "kubectl.kubernetes.io/default-container".to_owned(),
        layout::BUILD_CONTAINER.to_owned(),
    );
    for (keep, value) in [
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
        ("karpenter.sh/do-not-disrupt", "true"),
    ] {
        annotations.entry(keep.to_owned()).or_insert_with(|| value.to_owned());
    }
    ObjectMeta {
        name: Some(pod_name(&build.name, build.generation, attempt)),
        namespace: Some(build.namespace.clone()),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(vec![owner(build)]),
        ..ObjectMeta::default()
    }
}

/// No startup probe: the runner polls the socket, which is a second faster.
fn daemon(
    build: &Validated,
    isolation: PodIsolation,
    has_config: bool,
    state: &str,
    mounts: Vec<VolumeMount>,
    config: &OperatorConfig,
) -> Container {
    let rootless = isolation == PodIsolation::Rootless;
    let mut arguments = vec![format!("--addr={}", layout::DAEMON_ADDRESS)];
    if isolation != PodIsolation::Privileged {
        arguments.push("--oci-worker-no-process-sandbox".to_owned());
    }
    if !rootless {
        arguments.push(format!("--group={}", layout::USER));
    }
    if has_config {
        arguments.push(format!("--config={}/buildkitd.toml", layout::DAEMON_CONFIG_DIRECTORY));
    }
    if build.debug {
        arguments.push("--debug".to_owned());
    }
    let of_operator =
        if rootless { &config.images.buildkit_rootless } else { &config.images.buildkit };
    Container {
        name: layout::DAEMON_CONTAINER.to_owned(),
        image: Some(build.buildkit_image.as_ref().unwrap_or(of_operator).clone()),
        image_pull_policy: Some(config.images.pull_policy.clone()),
        restart_policy: Some("Always".to_owned()),
        command: Some(
            [
                "sh",
                "-c",
                if rootless { PREPARE_ROOTLESS } else { PREPARE },
                &format!("{state}/root"),
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
        args: Some(arguments),
        env: environment(build, config),
        volume_mounts: Some(mounts),
        resources: Some(requirements(
            build.pod.resources.as_ref().unwrap_or(&config.defaults.resources),
        )),
        security_context: Some(daemon_security(isolation, config.rootless_profiles)),
        // What a daemon says that does not start reaches the failure's message.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// What both containers need to reach the world: proxies, and the authorities that Go programs read besides their image's own.
fn environment(build: &Validated, config: &OperatorConfig) -> Option<Vec<EnvVar>> {
    let proxy = build.instructions.parameters.proxy.clone().unwrap_or_default();
    let authorities = (!config.ca_bundle.is_empty())
        .then(|| format!("/etc/ssl/certs:{}", layout::AUTHORITIES_DIRECTORY));
    let variables: Vec<EnvVar> = [
        ("HTTP_PROXY", proxy.http_proxy),
        ("HTTPS_PROXY", proxy.https_proxy),
        ("NO_PROXY", proxy.no_proxy),
        ("SSL_CERT_DIR", authorities),
    ]
    .into_iter()
    .filter_map(|(name, value)| {
        Some(EnvVar { name: name.to_owned(), value: Some(value?), value_from: None })
    })
    .collect();
    (!variables.is_empty()).then_some(variables)
}

fn daemon_security(isolation: PodIsolation, profiles: RootlessProfiles) -> SecurityContext {
    match isolation {
        // newuidmap and newgidmap need allowPrivilegeEscalation.
        PodIsolation::Rootless => {
            let unconfined = profiles == RootlessProfiles::Unconfined;
            SecurityContext {
                run_as_user: Some(layout::USER),
                run_as_group: Some(layout::USER),
                run_as_non_root: Some(true),
                seccomp_profile: unconfined.then(|| SeccompProfile {
                    type_: "Unconfined".to_owned(),
                    localhost_profile: None,
                }),
                app_armor_profile: unconfined.then(|| AppArmorProfile {
                    type_: "Unconfined".to_owned(),
                    localhost_profile: None,
                }),
                ..SecurityContext::default()
            }
        }
        PodIsolation::Userns => SecurityContext {
            run_as_user: Some(0),
            capabilities: Some(Capabilities {
                add: Some(vec!["SYS_ADMIN".to_owned()]),
                drop: None,
            }),
            ..SecurityContext::default()
        },
        PodIsolation::Privileged => SecurityContext {
            run_as_user: Some(0),
            privileged: Some(true),
            ..SecurityContext::default()
        },
    }
}

/// The only container that sees credentials.
fn runner(build: &Validated, mounts: Vec<VolumeMount>, config: &OperatorConfig) -> Container {
    Container {
        name: layout::BUILD_CONTAINER.to_owned(),
        image: Some(config.images.runner.clone()),
        image_pull_policy: Some(config.images.pull_policy.clone()),
        args: Some(vec![
            "run".to_owned(),
            "--instructions".to_owned(),
            layout::INSTRUCTIONS_FILE.to_owned(),
        ]),
        ports: Some(vec![ContainerPort {
            name: Some("progress".to_owned()),
            container_port: i32::from(layout::PROGRESS_PORT),
            ..ContainerPort::default()
        }]),
        env: environment(build, config),
        volume_mounts: Some(mounts),
        resources: Some(requirements(&config.defaults.runner_resources)),
        security_context: Some(SecurityContext {
            run_as_user: Some(layout::USER),
            run_as_group: Some(layout::USER),
            run_as_non_root: Some(true),
            read_only_root_filesystem: Some(true),
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn merged(
    defaults: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
) -> Option<BTreeMap<String, String>> {
    let mut all = defaults.clone();
    all.extend(own.clone());
    (!all.is_empty()).then_some(all)
}

fn tolerations(
    build: &Validated,
    config: &OperatorConfig,
) -> Option<Vec<k8s_openapi::api::core::v1::Toleration>> {
    let all: Vec<_> =
        config.defaults.tolerations.iter().chain(&build.pod.tolerations).cloned().collect();
    (!all.is_empty()).then_some(all)
}

fn requirements(resources: &Resources) -> ResourceRequirements {
    let quantities = |map: &BTreeMap<String, String>| {
        (!map.is_empty()).then(|| {
            map.iter().map(|(name, quantity)| (name.clone(), Quantity(quantity.clone()))).collect()
        })
    };
    ResourceRequirements {
        requests: quantities(&resources.requests),
        limits: quantities(&resources.limits),
        ..ResourceRequirements::default()
    }
}
