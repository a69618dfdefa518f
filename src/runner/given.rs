//! What a build is given by files of its source and by mounted Secrets, checked before anything is built. The files are a
//! tenant's: none leads out of the source, and none is larger than it may be.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    arguments::Given,
    image_args,
    locate::{below, listing},
    parameters::{self, InvalidFile, MOST_BYTES},
    result::BuildFailure,
};
use crate::{
    api::FailureReason,
    plan::instructions::{Instructions, MountedKey, RegistryInstructions, SecretOrigin},
};

/// BuildKit takes no larger secret (session/secrets/secretsprovider).
const SECRET_LIMIT: u64 = 500 * 1024;

/// Everything that the build is given, and the stage to build.
pub fn read(
    instructions: &Instructions,
    root: &Path,
    work: &Path,
) -> Result<(Given, Option<String>), BuildFailure> {
    let parameters = &instructions.parameters;
    let mut given = Given {
        build_args: parameters.build_args.clone(),
        labels: parameters.labels.clone(),
        ..Given::default()
    };
    if let Some(path) = &parameters.build_args_file {
        given
            .build_args
            .extend(parse(root, "buildArgsFile", path, |text| parameters::build_args(path, text))?);
    }
    if let Some(path) = &parameters.labels_file {
        given.labels.extend(parse(root, "labelsFile", path, parameters::lines)?);
    }
    let stage = match &parameters.target_file {
        Some(path) => Some(parse(root, "targetFile", path, parameters::stage)?),
        None => parameters.target.clone(),
    };
    for (number, (argument, path)) in parameters.image_args.iter().enumerate() {
        let found = find(root, "imageArgs", path)?;
        if !found.is_dir() {
            // Neither a pipe nor a device: whoever opens one may wait for ever.
            find_file(root, "imageArgs", path)?;
        }
        let layout = work.join(format!("image-arg-{number}"));
        given.images.push(image_args::prepare(argument, path, &found, &layout)?);
    }
    for secret in &instructions.secrets {
        let file = match &secret.from {
            SecretOrigin::Key(key) => mounted("secrets", key)?,
            SecretOrigin::File(path) => find_file(root, "secrets", path)?,
        };
        check_size(&secret.id, &file)?;
        given.secrets.push((secret.id.clone(), file));
    }
    for ssh in &instructions.ssh {
        let file = mounted("ssh", &ssh.key)?;
        check_private_key(&ssh.key, &file)?;
        given.ssh.entry(ssh.id.clone()).or_default().push(file);
    }
    Ok((given, stage))
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

/// No more than one byte too much is read.
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

fn check_size(id: &str, file: &Path) -> Result<(), BuildFailure> {
    let size = fs::metadata(file).map_or(0, |metadata| metadata.len());
    if size <= SECRET_LIMIT {
        return Ok(());
    }
    let message =
        format!("secrets: {id:?} has {size} bytes; BuildKit takes at most {SECRET_LIMIT}");
    Err(BuildFailure::new(FailureReason::SecretInvalid, message))
}

const OPENSSH_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const HAS_PASSPHRASE: &str =
    "has a passphrase, which nobody can type here; ssh-keygen -p -N '' takes it away";

/// Said here, where the Secret can be named; buildctl names only the mounted file.
fn check_private_key(key: &MountedKey, file: &Path) -> Result<(), BuildFailure> {
    let text = read_text(file).unwrap_or_default();
    let words = if !text.contains("PRIVATE KEY-----") {
        "is no private key"
    } else if !text.contains(OPENSSH_KEY) {
        // Keys in other formats are read by buildctl.
        if !text.contains("ENCRYPTED") {
            return Ok(());
        }
        HAS_PASSPHRASE
    } else {
        match is_encrypted(&text) {
            Some(false) => return Ok(()),
            Some(true) => HAS_PASSPHRASE,
            None => "is damaged: it begins as an OpenSSH private key and is none",
        }
    };
    let message = format!("ssh: key {:?} of Secret {:?} {words}", key.key, key.secret);
    Err(BuildFailure::new(FailureReason::SecretInvalid, message))
}

/// Whether a key in OpenSSH's own format names a cipher (openssh, PROTOCOL.key); nothing for what is no such key.
fn is_encrypted(text: &str) -> Option<bool> {
    let (_, body) = text.split_once(OPENSSH_KEY)?;
    let (body, _) = body.split_once("-----END")?;
    let body: String = body.split_whitespace().collect();
    let bytes = STANDARD.decode(body).ok()?;
    let cipher = bytes.strip_prefix(b"openssh-key-v1\0")?.strip_prefix(&[0, 0, 0])?;
    Some(!cipher.starts_with(b"\x04none"))
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

    use super::{FailureReason, MountedKey, check_private_key, find_file};

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
            ("hello", Some("is no private key")),
            ("-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----\n", None),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n", Some("has a passphrase")),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
                Some("is damaged"),
            ),
            // "openssh-key-v1", and the name of a cipher: "none", "aes2…".
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n",
                None,
            ),
            (
                "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHI=\n-----END OPENSSH PRIVATE KEY-----\n",
                Some("has a passphrase"),
            ),
        ] {
            fs::write(file.path(), text).unwrap();
            let checked = check_private_key(&key, file.path()).map_err(|failure| failure.message);
            match words {
                None => assert_eq!(checked, Ok(()), "{text}"),
                Some(words) => {
                    let message = checked.unwrap_err();
                    assert!(
                        message
                            .starts_with(&format!("ssh: key \"id\" of Secret \"deploy\" {words}")),
                        "{message}"
                    );
                }
            }
        }
    }
}
