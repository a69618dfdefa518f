//! The volumes of a build's pod, each with the places where the containers see it. One list: a volume and its mounts cannot
//! part.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource,
    KeyToPath, ObjectFieldSelector, PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume,
    VolumeMount,
};

use super::{
    OutputPlan, Validated,
    instructions::{MountedKey, SecretOrigin},
    layout,
};
use crate::api::{ConfigMapKey, ConfigMapSource};

/// A volume and where the containers see it.
pub struct PodVolume {
    /// The volume.
    pub volume: Volume,
    /// Where the build's own container sees it.
    pub runner: Option<VolumeMount>,
    /// Where BuildKit's container sees it. Nothing that holds a secret is seen there.
    pub daemon: Option<VolumeMount>,
}

/// Annotations that become files of the pod.
#[derive(Clone, Copy)]
pub struct FileAnnotations {
    /// The instructions.
    pub instructions: &'static str,
    /// buildkitd.toml, if there is one.
    pub daemon_config: Option<&'static str>,
    /// The operator's own authorities, if there are some.
    pub authorities: Option<&'static str>,
}

impl PodVolume {
    fn new(volume: Volume) -> Self {
        Self { volume, runner: None, daemon: None }
    }

    fn in_runner(mut self, path: &str) -> Self {
        self.runner = Some(mount(&self.volume.name, path));
        self
    }

    fn in_daemon(mut self, path: &str) -> Self {
        self.daemon = Some(mount(&self.volume.name, path));
        self
    }

    fn read_only(mut self) -> Self {
        for mount in [&mut self.runner, &mut self.daemon].into_iter().flatten() {
            mount.read_only = Some(true);
        }
        self
    }
}

/// All volumes of a build's pod. `state` is BuildKit's folder.
pub fn volumes(build: &Validated, state: &str, annotations: FileAnnotations) -> Vec<PodVolume> {
    let mut volumes = vec![
        PodVolume::new(empty("socket"))
            .in_runner(layout::SOCKET_DIRECTORY)
            .in_daemon(layout::SOCKET_DIRECTORY),
        // Never the container's own overlay: overlayfs does not stack, and BuildKit would fall back to a slow snapshotter.
        PodVolume::new(empty("state")).in_daemon(state),
        PodVolume::new(empty("work")).in_runner(layout::WORK_DIRECTORY),
        PodVolume::new(from_annotation(
            "instructions",
            "instructions.json",
            annotations.instructions,
        ))
        .in_runner(layout::INSTRUCTIONS_DIRECTORY)
        .read_only(),
    ];
    if let Some(annotation) = annotations.daemon_config {
        let volume = from_annotation("daemon-config", "buildkitd.toml", annotation);
        volumes.push(PodVolume::new(volume).in_daemon(layout::DAEMON_CONFIG_DIRECTORY).read_only());
    }
    if let Some(annotation) = annotations.authorities {
        let volume =
            PodVolume::new(from_annotation("authorities", layout::AUTHORITIES_FILE, annotation));
        volumes.push(
            volume
                .in_runner(layout::AUTHORITIES_DIRECTORY)
                .in_daemon(layout::AUTHORITIES_DIRECTORY)
                .read_only(),
        );
    }
    for (number, authority) in build.registry_authorities.iter().enumerate() {
        let path = format!("{}/{number}", layout::REGISTRY_AUTHORITIES_DIRECTORY);
        let volume =
            PodVolume::new(config_map_key(&format!("registry-authority-{number}"), authority));
        volumes.push(volume.in_runner(&path).in_daemon(&path).read_only());
    }
    let source = build
        .source_claim
        .as_deref()
        .map(|claim_name| from_claim("source", claim_name))
        .or_else(|| build.source_config_map.as_ref().map(from_config_map));
    volumes.extend(
        source.map(|volume| PodVolume::new(volume).in_runner(layout::SOURCE_DIRECTORY).read_only()),
    );
    let output = match &build.output {
        OutputPlan::Existing { claim_name } | OutputPlan::Own { claim_name, .. } => {
            Some(from_claim("output", claim_name))
        }
        OutputPlan::Download => Some(empty("output")),
        OutputPlan::Nowhere => None,
    };
    volumes.extend(output.map(|volume| PodVolume::new(volume).in_runner(layout::OUTPUT_DIRECTORY)));
    volumes.extend(secrets(build));
    volumes
}

/// Everything that holds a secret: for the build's own container alone.
fn secrets(build: &Validated) -> impl Iterator<Item = PodVolume> {
    let registries =
        build.instructions.registry_secrets.iter().enumerate().map(|(number, secret)| {
            let volume = secret_volume(&format!("registry-secret-{number}"), &secret.name, None);
            PodVolume::new(volume).in_runner(&secret.path.to_string_lossy()).read_only()
        });
    let of_builds =
        build.instructions.secrets.iter().enumerate().filter_map(|(number, secret)| match &secret
            .from
        {
            SecretOrigin::Key(key) => Some(mounted_key(&format!("build-secret-{number}"), key)),
            SecretOrigin::File(_) => None,
        });
    let ssh = build
        .instructions
        .ssh
        .iter()
        .enumerate()
        .map(|(number, ssh)| mounted_key(&format!("ssh-key-{number}"), &ssh.key));
    registries.chain(of_builds).chain(ssh)
}

fn mounted_key(name: &str, key: &MountedKey) -> PodVolume {
    let folder = key.path.parent().unwrap_or(&key.path).to_string_lossy().into_owned();
    PodVolume::new(secret_volume(name, &key.secret, Some(&key.key))).in_runner(&folder).read_only()
}

fn secret_volume(name: &str, secret: &str, key: Option<&str>) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            items: key.map(only),
            // The operator may not read Secrets. The runner finds a missing one at once and names it; the kubelet would wait
            // for it without an end.
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn config_map_key(name: &str, authority: &ConfigMapKey) -> Volume {
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: authority.name.clone(),
            items: Some(only(&authority.key)),
            optional: Some(true),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn only(key: &str) -> Vec<KeyToPath> {
    vec![KeyToPath { key: key.to_owned(), path: layout::KEY_FILE.to_owned(), mode: None }]
}

fn empty(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

fn from_claim(name: &str, claim_name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

fn from_config_map(source: &ConfigMapSource) -> Volume {
    let items = source.items.iter().map(|item| KeyToPath {
        key: item.key.clone(),
        path: item.path.clone(),
        mode: None,
    });
    Volume {
        name: "source".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: source.name.clone(),
            items: (!source.items.is_empty()).then(|| items.collect()),
            optional: Some(true),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// An annotation as a file: it reaches the node with the pod, where a ConfigMap would be one more object and one more read.
fn from_annotation(name: &str, file: &str, annotation: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        downward_api: Some(DownwardAPIVolumeSource {
            items: Some(vec![DownwardAPIVolumeFile {
                path: file.to_owned(),
                field_ref: Some(ObjectFieldSelector {
                    field_path: format!("metadata.annotations['{annotation}']"),
                    ..ObjectFieldSelector::default()
                }),
                ..DownwardAPIVolumeFile::default()
            }]),
            ..DownwardAPIVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}
