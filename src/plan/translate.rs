//! From the fields of a spec to what the runner is told. What CEL cannot say is checked here.

use std::{net::IpAddr, path::PathBuf};

use super::{
    ImageReference, InvalidSpec, OperatorConfig, OutputPlan,
    claim::own_claim_name,
    duration::parse_duration,
    instructions::{
        BuildParameters, ImageForm, MountedKey, MountedSecret, OutputInstructions,
        SecretInstructions, SecretOrigin, SourceInstructions, SshInstructions,
    },
    layout,
};
use crate::api::{OciBuild, OciBuildSpec, OutputFormat, Proxy, SecretKey, Source};

/// The names of the image.
pub fn references(spec: &OciBuildSpec) -> Result<Vec<ImageReference>, InvalidSpec> {
    let mut references = Vec::new();
    for tag in std::iter::once(&spec.image_tag).chain(&spec.extra_tags) {
        let reference = ImageReference::new(spec.registry.as_deref(), &spec.image_name, tag)?;
        if !references.contains(&reference) {
            references.push(reference);
        }
    }
    Ok(references)
}

/// What the Dockerfile is given.
pub fn parameters(
    spec: &OciBuildSpec,
    config: &OperatorConfig,
) -> Result<BuildParameters, InvalidSpec> {
    for (field, path) in [
        ("buildArgsFile", &spec.build_args_file),
        ("labelsFile", &spec.labels_file),
        ("targetFile", &spec.target_file),
    ] {
        path.as_ref().map_or(Ok(()), |path| relative(field, path))?;
    }
    for path in spec.image_args.values() {
        relative("imageArgs", path)?;
    }
    for (host, address) in &spec.add_hosts {
        if address.parse::<IpAddr>().is_err() {
            return Err(InvalidSpec::Address { host: host.clone(), address: address.clone() });
        }
    }
    Ok(BuildParameters {
        build_args: spec.build_args.clone(),
        build_args_file: spec.build_args_file.clone(),
        labels: spec.labels.clone(),
        labels_file: spec.labels_file.clone(),
        image_args: spec.image_args.clone(),
        target: spec.target.clone(),
        target_file: spec.target_file.clone(),
        additional_targets: spec.additional_targets.clone(),
        platforms: spec.platforms.clone(),
        add_hosts: spec.add_hosts.clone(),
        proxy: spec
            .proxy
            .clone()
            .or_else(|| (config.proxy != Proxy::default()).then(|| config.proxy.clone())),
        no_cache: spec.no_cache,
        cache: spec.cache.clone(),
        source_date_epoch: spec.source_date_epoch,
    })
}

/// In which form the image is made.
pub fn image_form(spec: &OciBuildSpec) -> Result<ImageForm, InvalidSpec> {
    let is_index = spec.platforms.len() > 1 || spec.attestations.is_some();
    let format = match spec.output_format {
        Some(OutputFormat::Docker) if is_index => return Err(InvalidSpec::Format),
        Some(format) => format,
        None if is_index => OutputFormat::Oci,
        None => OutputFormat::Docker,
    };
    Ok(ImageForm {
        format,
        unpack_rootfs: spec.unpack_rootfs,
        annotations: spec.annotations.clone(),
        compression: spec.compression,
        compression_level: spec.compression_level,
        attestations: spec.attestations.clone(),
    })
}

/// Build secrets and where they are mounted.
pub fn secrets(spec: &OciBuildSpec) -> Result<Vec<SecretInstructions>, InvalidSpec> {
    let secret = |(number, secret): (usize, &crate::api::BuildSecret)| {
        let from = match (&secret.secret, &secret.file) {
            (Some(key), None) => {
                SecretOrigin::Key(mounted_key(key, layout::BUILD_SECRETS_DIRECTORY, number))
            }
            (None, Some(path)) => {
                relative("secrets", path)?;
                SecretOrigin::File(path.clone())
            }
            _ => return Err(InvalidSpec::Secret(secret.id.clone())),
        };
        Ok(SecretInstructions { id: secret.id.clone(), from })
    };
    spec.secrets.iter().enumerate().map(secret).collect()
}

/// SSH keys and where they are mounted.
pub fn ssh(spec: &OciBuildSpec) -> Vec<SshInstructions> {
    let keys = spec.ssh.iter().enumerate();
    keys.map(|(number, ssh)| SshInstructions {
        id: ssh.id.clone(),
        key: mounted_key(&ssh.secret, layout::SSH_DIRECTORY, number),
    })
    .collect()
}

/// Registry credentials and where they are mounted.
pub fn registry_secrets(spec: &OciBuildSpec) -> Vec<MountedSecret> {
    let names = spec.registry_secrets.iter().enumerate();
    names
        .map(|(number, name)| MountedSecret {
            name: name.clone(),
            path: numbered(layout::REGISTRY_SECRETS_DIRECTORY, number),
        })
        .collect()
}

fn mounted_key(key: &SecretKey, directory: &str, number: usize) -> MountedKey {
    let path = numbered(directory, number).join(layout::KEY_FILE);
    MountedKey { secret: key.name.clone(), key: key.key.clone(), path }
}

fn numbered(directory: &str, number: usize) -> PathBuf {
    PathBuf::from(format!("{directory}/{number}"))
}

/// Where the files come from.
pub fn source_instructions(source: &Source) -> Result<SourceInstructions, InvalidSpec> {
    let mut sources = Vec::new();
    if let Some(claim) = &source.persistent_volume_claim {
        let path = claim.path.as_deref().unwrap_or_default();
        relative("source.persistentVolumeClaim.path", path)?;
        sources.push(SourceInstructions::Directory {
            root: PathBuf::from(layout::SOURCE_DIRECTORY),
            path: path.to_owned(),
        });
    }
    if let Some(config_map) = &source.config_map {
        for item in &config_map.items {
            relative("source.configMap.items.path", &item.path)?;
        }
        sources.push(SourceInstructions::ConfigMap {
            name: config_map.name.clone(),
            path: PathBuf::from(layout::SOURCE_DIRECTORY),
            expected: config_map.items.iter().map(|item| item.path.clone()).collect(),
        });
    }
    if let Some(files) = &source.files {
        for path in files.keys() {
            relative("source.files", path)?;
        }
        sources.push(SourceInstructions::Files { files: files.clone() });
    }
    if let Some(git) = &source.git {
        sources
            .push(SourceInstructions::Git { url: git.url.clone(), revision: git.revision.clone() });
    }
    if let Some(http) = &source.http {
        sources
            .push(SourceInstructions::Http { url: http.url.clone(), sha256: http.sha256.clone() });
    }
    if let Some(image) = &source.image {
        sources.push(SourceInstructions::Image { reference: image.reference.clone() });
    }
    if source.upload.is_some() {
        sources.push(SourceInstructions::Upload {});
    }
    let mut sources = sources.into_iter();
    match (sources.next(), sources.next()) {
        (Some(source), None) => Ok(source),
        _ => Err(InvalidSpec::Source),
    }
}

/// Where the tar goes.
pub fn output(
    name: &str,
    build: &OciBuild,
    config: &OperatorConfig,
) -> Result<(OutputPlan, Option<OutputInstructions>), InvalidSpec> {
    let output = build.spec.output.clone().unwrap_or_default();
    if output.none.is_some() {
        return Ok((OutputPlan::Nowhere, None));
    }
    let root = PathBuf::from(layout::OUTPUT_DIRECTORY);
    if let Some(claim) = output.persistent_volume_claim {
        let path = claim.path.unwrap_or_else(|| name.to_owned());
        relative("output.persistentVolumeClaim.path", &path)?;
        return Ok((
            OutputPlan::Existing { claim_name: claim.claim_name },
            Some(OutputInstructions { root, path, download_seconds: None }),
        ));
    }
    if let Some(download) = output.download {
        let patience = parse_duration(&download.timeout).ok_or(InvalidSpec::Duration {
            field: "output.download.timeout",
            text: download.timeout,
        })?;
        let output = OutputInstructions {
            root,
            path: String::new(),
            download_seconds: Some(patience.as_secs()),
        };
        return Ok((OutputPlan::Download, Some(output)));
    }
    let template = output.claim_template.unwrap_or_default();
    let plan = OutputPlan::Own {
        claim_name: own_claim_name(name),
        storage: template.storage.unwrap_or_else(|| config.defaults.output_storage.clone()),
        storage_class_name: template
            .storage_class_name
            .or_else(|| config.defaults.output_storage_class.clone()),
    };
    Ok((plan, Some(OutputInstructions { root, path: String::new(), download_seconds: None })))
}

/// A path that stays below its root.
pub fn relative(field: &'static str, path: &str) -> Result<(), InvalidSpec> {
    if path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(InvalidSpec::Path { field, path: path.to_owned() });
    }
    Ok(())
}
