//! From the task's parameters to the OciBuild, its Secret, and the files to send. Pure.

use std::collections::BTreeMap;

use super::params::{SecretText, TaskParameters};
use crate::{
    api::{
        BuildSecret, Download, OciBuildSpec, Output, OutputFormat, SecretKey, Source, SshKey,
        UploadSource,
    },
    client::archive::Selection,
};

/// How long a build goes on when its task is gone.
const LEASE: &str = "60s";
/// How long a build is kept whose task could not delete it.
const KEPT: &str = "1h";
/// How long the pod waits for the task to fetch the files.
const DOWNLOAD: &str = "30m";
/// Key of the registry credentials in the Secret.
pub const DOCKER_CONFIG_KEY: &str = ".dockerconfigjson";

/// What a task asks of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskBuild {
    /// The build.
    pub spec: OciBuildSpec,
    /// The keys of its Secret; no Secret is made if there are none.
    pub secret: BTreeMap<String, SecretContent>,
    /// The files to send.
    pub selection: Selection,
}

/// Where the content of a Secret's key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretContent {
    /// A text of the environment.
    Text(SecretText),
    /// A file, by its path in the task's folder or on the task's machine.
    File(String),
}

impl TaskBuild {
    /// The build that the parameters ask for. `secret` is the name that its Secret will have; `template` is what the
    /// parameters are put on top of.
    pub fn new(parameters: &TaskParameters, secret: &str, template: OciBuildSpec) -> Self {
        let mut content = BTreeMap::new();
        let mut key = |name: String, value: SecretContent| {
            content.insert(name.clone(), value);
            SecretKey { name: secret.to_owned(), key: name }
        };
        let mut secrets = template.secrets.clone();
        let texts = parameters
            .secret_texts
            .iter()
            .map(|(id, text)| (id, SecretContent::Text(text.clone())));
        let files = parameters
            .secret_files
            .iter()
            .map(|(id, path)| (id, SecretContent::File(path.clone())));
        for (number, (id, value)) in files.chain(texts).enumerate() {
            secrets.retain(|other| other.id != *id);
            secrets.push(BuildSecret {
                id: id.clone(),
                secret: Some(key(format!("secret-{number}"), value)),
                file: None,
            });
        }
        let mut ssh = template.ssh.clone();
        if let Some((id, keys)) = &parameters.ssh {
            for (number, path) in keys.iter().enumerate() {
                let secret = key(format!("ssh-{number}"), SecretContent::File(path.clone()));
                ssh.push(SshKey { id: id.clone(), secret });
            }
        }
        let mut registry_secrets = template.registry_secrets.clone();
        if let Some(folder) = &parameters.docker_config {
            key(DOCKER_CONFIG_KEY.to_owned(), SecretContent::File(format!("{folder}/config.json")));
            registry_secrets.push(secret.to_owned());
        }
        let mut registry_mirrors = template.registry_mirrors.clone();
        if !parameters.registry_mirrors.is_empty() {
            registry_mirrors.insert("docker.io".to_owned(), parameters.registry_mirrors.clone());
        }
        let either = |own: &Option<String>, template: &Option<String>| {
            own.clone().or_else(|| template.clone())
        };
        let dockerfile = either(&parameters.dockerfile, &template.dockerfile);
        let build_args_file = either(&parameters.build_args_file, &template.build_args_file);
        let labels_file = either(&parameters.labels_file, &template.labels_file);
        let target_file = either(&parameters.target_file, &template.target_file);
        let image_args = merged(&template.image_args, &parameters.image_args);
        let named_files = [&build_args_file, &labels_file, &target_file];
        let selection = Selection {
            context: parameters.context.clone(),
            dockerfile: dockerfile.clone(),
            files: named_files.into_iter().flatten().chain(image_args.values()).cloned().collect(),
        };
        let spec = OciBuildSpec {
            source: Source { upload: Some(UploadSource {}), ..Source::default() },
            output: Some(Output {
                download: Some(Download { timeout: DOWNLOAD.to_owned() }),
                ..Output::default()
            }),
            context: parameters.context.clone(),
            dockerfile,
            image_name: parameters
                .image_name
                .clone()
                .unwrap_or_else(|| template.image_name.clone()),
            image_tag: parameters.image_tag.clone().unwrap_or_else(|| template.image_tag.clone()),
            build_args: merged(&template.build_args, &parameters.build_args),
            build_args_file,
            labels: merged(&template.labels, &parameters.labels),
            labels_file,
            image_args,
            target: either(&parameters.target, &template.target),
            target_file,
            additional_targets: unless_empty(
                &parameters.additional_targets,
                &template.additional_targets,
            ),
            platforms: unless_empty(&parameters.platforms, &template.platforms),
            output_format: if parameters.output_oci {
                Some(OutputFormat::Oci)
            } else {
                template.output_format
            },
            unpack_rootfs: parameters.unpack_rootfs || template.unpack_rootfs,
            secrets,
            ssh,
            add_hosts: merged(&template.add_hosts, &parameters.add_hosts),
            registry_mirrors,
            buildkit_config: either(&parameters.extra_config, &template.buildkit_config),
            registry_secrets,
            push: parameters.push || template.push,
            registry: either(&parameters.registry, &template.registry),
            debug: parameters.debug || template.debug,
            suspend: false,
            lease: Some(template.lease.clone().unwrap_or_else(|| LEASE.to_owned())),
            ttl_after_finished: Some(
                template.ttl_after_finished.clone().unwrap_or_else(|| KEPT.to_owned()),
            ),
            ..template
        };
        Self { spec, secret: content, selection }
    }
}

fn unless_empty(own: &[String], template: &[String]) -> Vec<String> {
    if own.is_empty() { template } else { own }.to_vec()
}

fn merged(
    template: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    template.iter().chain(own).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{OciBuildSpec, SecretContent, TaskBuild, TaskParameters};

    fn build(pairs: &[(&str, &str)], template: &str) -> TaskBuild {
        let variables = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>();
        let mut template: serde_json::Value = serde_saphyr::from_str(template).unwrap();
        for (field, value) in
            [("source", serde_json::json!({})), ("context", ".".into()), ("imageName", "x".into())]
        {
            template.as_object_mut().unwrap().entry(field).or_insert(value);
        }
        let template = serde_json::from_value::<OciBuildSpec>(template).unwrap();
        TaskBuild::new(&TaskParameters::read(&variables).unwrap(), "the-secret", template)
    }

    #[test]
    fn the_specifications_own_parameters_make_its_build() {
        let build = build(
            &[
                ("CONTEXT", "source-code"),
                ("DOCKERFILE", "source-code/Dockerfile"),
                ("IMAGE_NAME", "my-app"),
                ("IMAGE_TAG", "v1.0.0"),
                ("BUILD_ARG_APP_VERSION", "v1.0.0"),
            ],
            "{}",
        );
        insta::assert_yaml_snapshot!(build.spec);
        assert!(build.secret.is_empty());
    }

    #[test]
    fn what_no_parameter_says_the_template_says() {
        let template = "{imageName: app, imageTag: v2, push: true, registry: registry.example.com, dockerfile: ci/Dockerfile, \
            targetFile: ci/target, imageArgs: {base: base/image.tar}, additionalTargets: [test], outputFormat: oci, unpackRootfs: true}";
        let from_template = build(&[], template);
        let (spec, selection) = (&from_template.spec, &from_template.selection);
        assert_eq!(
            (spec.image_name.as_str(), spec.image_tag.as_str(), spec.push, spec.unpack_rootfs),
            ("app", "v2", true, true)
        );
        assert_eq!(spec.output_format, Some(super::OutputFormat::Oci));
        assert_eq!(spec.additional_targets, ["test"]);
        assert_eq!(selection.dockerfile.as_deref(), Some("ci/Dockerfile"));
        assert_eq!(selection.files, ["ci/target", "base/image.tar"]);
        let own = build(
            &[
                ("IMAGE_NAME", "other"),
                ("DOCKERFILE", "Dockerfile"),
                ("ADDITIONAL_TARGETS", "lint"),
            ],
            template,
        );
        assert_eq!((own.spec.image_name.as_str(), own.spec.image_tag.as_str()), ("other", "v2"));
        assert_eq!(
            (own.spec.dockerfile.as_deref(), own.spec.additional_targets),
            (Some("Dockerfile"), vec!["lint".to_owned()])
        );
    }

    #[test]
    fn secrets_travel_as_keys_of_one_secret_and_their_files_are_not_sent() {
        let build = build(
            &[
                ("DOCKER_CONFIG", "credentials"),
                ("BUILDKIT_SECRET_file", "secrets/file"),
                ("BUILDKIT_SECRETTEXT_text", "hunter2"),
                ("BUILDKIT_SSH", "default=keys/one,keys/two"),
                ("BUILD_ARGS_FILE", "ci/args"),
                ("IMAGE_ARG_base", "base/image.tar"),
                ("PUSH", "true"),
                ("REGISTRY", "registry.example.com/team"),
                ("IMAGE_NAME", "app"),
            ],
            "{registrySecrets: [shared], pod: {nodeSelector: {disk: fast}}, timeout: 2h, buildArgs: {A: b}}",
        );
        insta::assert_yaml_snapshot!(build.spec);
        let file = |path: &str| SecretContent::File(path.to_owned());
        assert_eq!(
            build.secret.keys().collect::<Vec<_>>(),
            [".dockerconfigjson", "secret-0", "secret-1", "ssh-0", "ssh-1"]
        );
        assert_eq!(
            (&build.secret["secret-0"], &build.secret["ssh-1"]),
            (&file("secrets/file"), &file("keys/two"))
        );
        assert_eq!(build.selection.files, ["ci/args", "base/image.tar"]);
        assert!(!format!("{build:?}").contains("hunter2"));
    }
}
