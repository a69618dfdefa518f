//! The inputs of a build besides its context: build arguments, labels, images, secrets and SSH
//! keys, from the spec, files of the source and mounted Secrets, checked before anything is built.
//! The files are untrusted: paths must stay inside the source, and sizes are limited.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    image_args,
    locate::{below, listing},
    parameters::{self, InvalidFile, MOST_BYTES},
    result::BuildFailure,
};
use crate::{
    api::FailureReason,
    buildkit::{
        MAX_SECRET_BYTES, Secret,
        ssh_agent::{SshAgent, SshKey, SshKeyError},
    },
    plan::{
        Digest,
        instructions::{Instructions, MountedKey, RegistryInstructions, SecretOrigin},
    },
};

/// The inputs of a build besides its context.
#[derive(Default)]
pub struct BuildInputs {
    /// Build arguments, those of the file among them.
    pub build_args: BTreeMap<String, String>,
    /// Labels, those of the file among them.
    pub labels: BTreeMap<String, String>,
    /// Images that FROM can use.
    pub images: Vec<InputImage>,
    /// Build secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// SSH agents by id.
    pub ssh: BTreeMap<String, SshAgent>,
}

/// An image of the source that FROM can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputImage {
    /// Name of the build argument.
    pub argument: String,
    /// Folder of its OCI layout.
    pub layout: PathBuf,
    /// Digest of its manifest or index.
    pub digest: Digest,
}

/// Reads all inputs, and the stage to build.
pub fn read(
    instructions: &Instructions,
    root: &Path,
    work: &Path,
) -> Result<(BuildInputs, Option<String>), BuildFailure> {
    let parameters = &instructions.parameters;
    let mut inputs = BuildInputs {
        build_args: parameters.build_args.clone(),
        labels: parameters.labels.clone(),
        ..BuildInputs::default()
    };
    if let Some(path) = &parameters.build_args_file {
        inputs
            .build_args
            .extend(parse(root, "buildArgsFile", path, |text| parameters::build_args(path, text))?);
    }
    if let Some(path) = &parameters.labels_file {
        inputs.labels.extend(parse(root, "labelsFile", path, parameters::lines)?);
    }
    let stage = match &parameters.target_file {
        Some(path) => Some(parse(root, "targetFile", path, parameters::stage)?),
        None => parameters.target.clone(),
    };
    for (number, (argument, path)) in parameters.image_args.iter().enumerate() {
        let found = find(root, "imageArgs", path)?;
        if !found.is_dir() {
            // Opening a pipe or device can block.
            find_file(root, "imageArgs", path)?;
        }
        let layout = work.join(format!("image-arg-{number}"));
        inputs.images.push(image_args::prepare(argument, path, &found, &layout)?);
    }
    for secret in &instructions.secrets {
        let file = match &secret.from {
            SecretOrigin::Key(key) => mounted("secrets", key)?,
            SecretOrigin::File(path) => find_file(root, "secrets", path)?,
        };
        inputs.secrets.insert(secret.id.clone(), read_secret(&secret.id, &file)?);
    }
    inputs.ssh = ssh_agents(instructions)?;
    Ok((inputs, stage))
}

fn ssh_agents(instructions: &Instructions) -> Result<BTreeMap<String, SshAgent>, BuildFailure> {
    let mut keys: BTreeMap<String, Vec<SshKey>> = BTreeMap::new();
    for ssh in &instructions.ssh {
        let file = mounted("ssh", &ssh.key)?;
        keys.entry(ssh.id.clone()).or_default().push(read_ssh_key(&ssh.key, &file)?);
    }
    Ok(keys.into_iter().map(|(id, keys)| (id, SshAgent::new(keys))).collect())
}

fn parse<T>(
    root: &Path,
    field: &str,
    path: &str,
    parse: impl FnOnce(&str) -> Result<T, InvalidFile>,
) -> Result<T, BuildFailure> {
    let invalid = |words: String| {
        BuildFailure::new(FailureReason::FileInvalid, format!("{field}: {path:?}: {words}"))
    };
    let file = find_file(root, field, path)?;
    let text = read_text(&file).map_err(|error| invalid(error.to_string()))?;
    if text.len() > MOST_BYTES {
        return Err(invalid(InvalidFile::TooLarge.to_string()));
    }
    parse(&text).map_err(|error| invalid(error.to_string()))
}

/// Reads one byte more than the limit to detect larger files.
fn read_text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(file)?.take(MOST_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn find(root: &Path, field: &str, path: &str) -> Result<PathBuf, BuildFailure> {
    let real = root.canonicalize().ok();
    real.as_deref().and_then(|root| below(root, Path::new(path))).ok_or_else(|| {
        if root.join(path).symlink_metadata().is_ok() {
            let message =
                format!("{field}: {path:?} is a link that leads nowhere or out of the source");
            return BuildFailure::new(FailureReason::FileNotFound, message);
        }
        let folder = real
            .as_deref()
            .and_then(|root| below(root, Path::new(path).parent()?))
            .unwrap_or_else(|| root.to_owned());
        let message = format!(
            "{field}: there is no {path:?} in the source; beside it are {}",
            listing(&folder)
        );
        BuildFailure::new(FailureReason::FileNotFound, message)
    })
}

fn find_file(root: &Path, field: &str, path: &str) -> Result<PathBuf, BuildFailure> {
    let found = find(root, field, path)?;
    if found.is_file() {
        return Ok(found);
    }
    Err(BuildFailure::new(
        FailureReason::FileInvalid,
        format!("{field}: {path:?} of the source is not a file"),
    ))
}

fn mounted(field: &str, key: &MountedKey) -> Result<PathBuf, BuildFailure> {
    if key.path.is_file() {
        return Ok(key.path.clone());
    }
    let message = format!(
        "{field}: there is no Secret {:?} with a key {:?} in this namespace",
        key.secret, key.key
    );
    Err(BuildFailure::new(FailureReason::SecretMissing, message))
}

fn read_secret(id: &str, file: &Path) -> Result<Secret, BuildFailure> {
    let invalid = |error: String| {
        BuildFailure::new(FailureReason::SecretInvalid, format!("secrets: {id:?}: {error}"))
    };
    // One byte more than there may be shows that there are more.
    let value = read_at_most(file, MAX_SECRET_BYTES + 1);
    let value = value.map_err(|error| invalid(format!("cannot be read: {error}")))?;
    Secret::new(value).map_err(|error| invalid(error.to_string()))
}

/// Parses the key here, so that the error can name its Secret.
fn read_ssh_key(key: &MountedKey, file: &Path) -> Result<SshKey, BuildFailure> {
    let invalid = |words: String| {
        let message = format!("ssh: key {:?} of Secret {:?} {words}", key.key, key.secret);
        BuildFailure::new(FailureReason::SecretInvalid, message)
    };
    let pem = read_at_most(file, MOST_BYTES + 1)
        .map_err(|error| invalid(format!("cannot be read: {error}")))?;
    SshKey::parse(&pem).map_err(|error| {
        invalid(match error {
            SshKeyError::NotAPrivateKey => "is not a private key".to_owned(),
            SshKeyError::PassphraseProtected => {
                "is passphrase-protected; remove the passphrase with ssh-keygen -p -N ''".to_owned()
            }
            other => format!("cannot be used: {other}"),
        })
    })
}

fn read_at_most(file: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(file)?.take(limit as u64).read_to_end(&mut content)?;
    Ok(content)
}

/// The mounted authorities of registries, checked before anything is fetched with them.
pub fn check_authorities(
    registries: &BTreeMap<String, RegistryInstructions>,
) -> Result<(), BuildFailure> {
    for (host, ca) in
        registries.iter().filter_map(|(host, registry)| Some((host, registry.ca.as_ref()?)))
    {
        let invalid = |reason, words: &str| {
            let message = format!(
                "registries: {host}: {words} ConfigMap {:?} with a key {:?}",
                ca.config_map, ca.key
            );
            Err(BuildFailure::new(reason, message))
        };
        match read_text(&ca.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return invalid(FailureReason::ConfigMapMissing, "there is no");
            }
            Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => {}
            _ => return invalid(FailureReason::InvalidSpec, "no certificate in PEM is in"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::{
        FailureReason, MAX_SECRET_BYTES, MountedKey, find_file, read_secret, read_ssh_key,
    };

    #[test]
    fn a_file_that_is_not_there_and_a_link_out_of_the_source_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(root.path().join("args"), "a=b").unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        symlink(outside.path(), root.path().join("out")).unwrap();
        symlink("args", root.path().join("inside")).unwrap();
        for (path, expected) in [
            ("args", None),
            ("./folder/../args", Some((FailureReason::FileNotFound, "leads"))),
            ("inside", None),
            (
                "out",
                Some((
                    FailureReason::FileNotFound,
                    "\"out\" is a link that leads nowhere or out of the source",
                )),
            ),
            (
                "none",
                Some((
                    FailureReason::FileNotFound,
                    "there is no \"none\" in the source; beside it are args, folder, inside, out",
                )),
            ),
            (
                "folder",
                Some((FailureReason::FileInvalid, "\"folder\" of the source is not a file")),
            ),
        ] {
            let found = find_file(root.path(), "buildArgsFile", path);
            match expected {
                None => assert!(found.is_ok(), "{path}"),
                Some((reason, words)) => {
                    let failure = found.unwrap_err();
                    assert!(
                        failure.reason == reason && failure.message.contains(words),
                        "{path}: {}",
                        failure.message
                    );
                }
            }
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_named_with_its_secret() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let key = MountedKey {
            secret: "deploy".to_owned(),
            key: "id".to_owned(),
            path: file.path().to_owned(),
        };
        for (text, words) in [
            ("hello", "is not a private key"),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "is passphrase-protected",
            ),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
                "cannot be used: ",
            ),
        ] {
            fs::write(file.path(), text).unwrap();
            let message = read_ssh_key(&key, file.path()).unwrap_err().message;
            let expected = format!("ssh: key \"id\" of Secret \"deploy\" {words}");
            assert!(message.starts_with(&expected), "{message}");
        }
    }

    #[test]
    fn a_secret_that_is_too_large_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![b'x'; MAX_SECRET_BYTES]).unwrap();
        assert_eq!(read_secret("token", file.path()).unwrap().as_bytes().len(), MAX_SECRET_BYTES);
        fs::write(file.path(), vec![b'x'; MAX_SECRET_BYTES + 7]).unwrap();
        let failure = read_secret("token", file.path()).unwrap_err();
        assert_eq!(failure.reason, FailureReason::SecretInvalid);
        assert!(failure.message.contains("accepts at most 512000"), "{}", failure.message);
    }
}
