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
pub fn read(instructions: &Instructions, root: &Path, work: &Path) -> Result<(Given, Option<String>), BuildFailure> {
    let parameters = &instructions.parameters;
    let mut given = Given { build_args: parameters.build_args.clone(), labels: parameters.labels.clone(), ..Given::default() };
    if let Some(path) = &parameters.build_args_file {
        given.build_args.extend(parse(root, "buildArgsFile", path, |text| parameters::build_args(path, text))?);
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

fn parse<T>(root: &Path, field: &str, path: &str, parse: impl FnOnce(&str) -> Result<T, InvalidFile>) -> Result<T, BuildFailure> {
    let invalid = |words: String| BuildFailure::new(FailureReason::FileInvalid, format!("{field}: {path:?}: {words}"));
    let file = find_file(root, field, path)?;
    let text = read_text(&file).map_err(|error| invalid(error.to_string()))?;
    if text.len() > MOST_BYTES {
        return Err(invalid(InvalidFile::TooLarge(text.len()).to_string()));
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
        let folder = real.as_deref().and_then(|root| below(root, Path::new(path).parent()?)).unwrap_or_else(|| root.to_owned());
        let message = format!("{field}: there is no {path:?} in the source; beside it are {}", listing(&folder));
        BuildFailure::new(FailureReason::FileNotFound, message)
    })
}

fn find_file(root: &Path, field: &str, path: &str) -> Result<PathBuf, BuildFailure> {
    let found = find(root, field, path)?;
    if found.is_file() {
        return Ok(found);
    }
    Err(BuildFailure::new(FailureReason::FileInvalid, format!("{field}: {path:?} of the source is not a file")))
}

fn mounted(field: &str, key: &MountedKey) -> Result<PathBuf, BuildFailure> {
    if key.path.is_file() {
        return Ok(key.path.clone());
    }
    let message = format!("{field}: there is no Secret {:?} with a key {:?} in this namespace", key.secret, key.key);
    Err(BuildFailure::new(FailureReason::SecretMissing, message))
}

fn check_size(id: &str, file: &Path) -> Result<(), BuildFailure> {
    let size = fs::metadata(file).map_or(0, |metadata| metadata.len());
    if size <= SECRET_LIMIT {
        return Ok(());
    }
    let message = format!("secrets: {id:?} has {size} bytes; BuildKit takes at most {SECRET_LIMIT}");
    Err(BuildFailure::new(FailureReason::SecretInvalid, message))
}

/// Said here, where the Secret can be named; buildctl names only the mounted file.
fn check_private_key(key: &MountedKey, file: &Path) -> Result<(), BuildFailure> {
    let text = read_text(file).unwrap_or_default();
    let words = if !text.contains("PRIVATE KEY-----") {
        "is no private key"
    } else if text.contains("ENCRYPTED") || is_encrypted(&text).unwrap_or_default() {
        "has a passphrase, which nobody can type here; ssh-keygen -p -N '' takes it away"
    } else {
        return Ok(());
    };
    let message = format!("ssh: key {:?} of Secret {:?} {words}", key.key, key.secret);
    Err(BuildFailure::new(FailureReason::SecretInvalid, message))
}

/// Whether a key in OpenSSH's own format names a cipher (openssh, PROTOCOL.key); nothing for other formats.
fn is_encrypted(text: &str) -> Option<bool> {
    let (_, body) = text.split_once("-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let (body, _) = body.split_once("-----END")?;
    let body: String = body.split_whitespace().collect();
    let bytes = STANDARD.decode(body).ok()?;
    let cipher = bytes.strip_prefix(b"openssh-key-v1\0")?.strip_prefix(&[0, 0, 0])?;
    Some(!cipher.starts_with(b"\x04none"))
}

/// The mounted authorities of registries, checked before anything is fetched with them.
pub fn check_authorities(registries: &BTreeMap<String, RegistryInstructions>) -> Result<(), BuildFailure> {
    for (host, ca) in registries.iter().filter_map(|(host, registry)| Some((host, registry.ca.as_ref()?))) {
        let invalid = |reason, words: &str| {
            let message = format!("registries: {host}: {words} ConfigMap {:?} with a key {:?}", ca.config_map, ca.key);
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
