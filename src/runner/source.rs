//! Brings the source into a folder.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    diagnose::{Activity, Evidence, diagnose},
    image_source::{self, Resolved},
    locate::below,
    output::storage_reason,
    result::BuildFailure,
    solver::Solver,
    stop::{Stop, stopped},
    transfer::Transfer,
    unpack::{Devices, unpack, unpack_stream},
};
use crate::{
    api::FailureReason,
    buildkit::{Exporter, Input, Solve, SolveError, llb, proto::pb},
    plan::{
        instructions::{Instructions, RegistryInstructions, SourceInstructions},
        layout,
    },
};

const ARCHIVE: &str = "archive";

/// The source's root, once its files are there.
pub async fn prepare(
    instructions: &Instructions,
    solver: &Solver,
    work: &Path,
    transfer: Option<&Transfer>,
    stop: &mut Stop,
) -> Result<PathBuf, BuildFailure> {
    let root = work.join(layout::SOURCE);
    match &instructions.source {
        SourceInstructions::Directory { root, path } => directory(root, path),
        SourceInstructions::Files { files } => {
            write_files(&root, files.iter()).map_err(|error| {
                BuildFailure::new(
                    FailureReason::SourceInvalid,
                    format!("source.files cannot be written: {error}"),
                )
            })?;
            Ok(root)
        }
        SourceInstructions::ConfigMap { name, path, expected } => {
            copy_config_map(path, &root, name, expected)?;
            Ok(root)
        }
        SourceInstructions::Git { url, revision } => {
            fetch(llb::git(url, revision.as_deref()), &root, solver, stop)
                .await
                .map_err(|failure| about(url, url, failure))?;
            Ok(root)
        }
        SourceInstructions::Upload {} => {
            let missing = || {
                BuildFailure::new(
                    FailureReason::SourceNotFound,
                    "source.upload: there is no client on this machine",
                )
            };
            let transfer = transfer.ok_or_else(missing)?;
            transfer.upload(stop).await?;
            transfer.close_upload();
            Ok(root)
        }
        SourceInstructions::Image { reference } => {
            let resolved = tokio::select! {
                resolved = image_source::resolve(reference, solver.logins(), solver.authority(), &root) => resolved?,
                () = stop.asked() => return Err(stopped()),
            };
            if let Resolved::Image { pinned } = resolved {
                let fetched = fetch(llb::image(&pinned), &root, solver, stop).await;
                fetched.map_err(|failure| about(reference, reference, failure))?;
            }
            Ok(root)
        }
        SourceInstructions::Http { url, sha256 } => {
            let folder = work.join("download");
            let shown = url.split(['?', '#']).next().unwrap_or_default();
            fetch(llb::http(url, ARCHIVE), &folder, solver, stop)
                .await
                .map_err(|failure| about(url, shown, failure))?;
            let (archive, unpacked, sha256) = (folder.join(ARCHIVE), root.clone(), sha256.clone());
            let unpacking =
                stop.unless_asked(move || check_and_unpack(&archive, &sha256, &unpacked));
            unpacking.await.map_err(|failure| about(url, shown, failure))?;
            Ok(root)
        }
    }
}

/// Files of the authorities that the runner trusts beside those of its image.
pub fn authorities(registries: &BTreeMap<String, RegistryInstructions>) -> Vec<PathBuf> {
    let bundle = Path::new(layout::AUTHORITIES_DIRECTORY).join(layout::AUTHORITIES_FILE);
    let of_registries =
        registries.values().filter_map(|registry| registry.ca.as_ref()).map(|ca| ca.path.clone());
    of_registries.chain(bundle.is_file().then_some(bundle.clone())).collect()
}

/// A link on the volume must not lead out of it: what lies outside is the runner's own, credentials
/// among it.
fn directory(root: &Path, path: &str) -> Result<PathBuf, BuildFailure> {
    let found = root
        .canonicalize()
        .ok()
        .and_then(|root| below(&root, Path::new(path)))
        .filter(|path| path.is_dir());
    found.ok_or_else(|| {
        BuildFailure::new(
            FailureReason::SourceNotFound,
            format!("the source {path:?} is not a folder of its volume"),
        )
    })
}

fn check_and_unpack(archive: &Path, sha256: &str, root: &Path) -> Result<(), BuildFailure> {
    let found = sha256_of(archive).map_err(not_unpacked)?;
    if found != sha256 {
        let message = format!("the archive's SHA-256 is {found}; source.http.sha256 says {sha256}");
        return Err(BuildFailure::new(FailureReason::SourceChecksumMismatch, message));
    }
    make_root(root)
        .and_then(|()| unpack(archive, root))
        .and_then(|()| fs::remove_file(archive))
        .map_err(not_unpacked)
}

/// A full volume is not the archive's fault.
pub fn not_unpacked(error: io::Error) -> BuildFailure {
    let reason = match storage_reason(&error) {
        FailureReason::StorageFull => FailureReason::StorageFull,
        _ => FailureReason::SourceInvalid,
    };
    // With the system's own words, which the tar crate keeps below its own.
    BuildFailure::new(
        reason,
        format!("the archive cannot be unpacked: {:#}", anyhow::Error::from(error)),
    )
}

/// SHA-256 of a file in hexadecimal digits.
pub fn sha256_of(file: &Path) -> io::Result<String> {
    let mut file = fs::File::open(file)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// A failure names the source, without what may be secret in its address.
fn about(address: &str, shown: &str, failure: BuildFailure) -> BuildFailure {
    BuildFailure {
        message: format!("{shown}: {}", failure.message.replace(address, shown)),
        step: None,
        log_excerpt: None,
        ..failure
    }
}

/// Fetches a source through the daemon and unpacks the stream.
async fn fetch(
    definition: pb::Definition,
    folder: &Path,
    solver: &Solver,
    stop: &mut Stop,
) -> Result<(), BuildFailure> {
    make_root(folder).map_err(|error| {
        let message = format!("cannot make the folder of the source: {error}");
        BuildFailure::new(storage_reason(&error), message)
    })?;
    let root = folder.to_owned();
    let exporter = Exporter {
        kind: "tar".to_owned(),
        attributes: BTreeMap::new(),
        consumer: Some(Box::new(move |mut stream| {
            unpack_stream(&mut stream, &root, Devices::Refuse)?;
            // Drain the padding, or the daemon would wait.
            io::copy(&mut stream, &mut io::sink()).map(drop)
        })),
    };
    let solve = Solve {
        input: Input::Definition(definition),
        exporters: vec![exporter],
        cache_imports: Vec::new(),
        cache_exports: Vec::new(),
        services: solver.services(),
    };
    let outcome = solver.run(solve, stop).await.map(drop).map_err(|error| {
        if let SolveError::Export { source, .. } = error {
            return not_unpacked(source);
        }
        solver.tracker().with(|tracker| {
            let step = tracker.failed();
            diagnose(&Evidence { error: &error, step, activity: Activity::FetchSource })
        })
    });
    // What follows is the build; the fetch is no step of it.
    solver.tracker().reset();
    outcome
}

/// A new folder without the setgid bit that the pod's volumes have: what is made below would
/// inherit it, and bring it into the image.
pub fn make_root(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

fn write_files<'a>(
    root: &Path,
    files: impl Iterator<Item = (&'a String, &'a String)>,
) -> io::Result<()> {
    make_root(root)?;
    for (path, content) in files {
        let file = root.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(file, content)?;
    }
    Ok(())
}

/// The kubelet mounts a ConfigMap as links into `..data`; a context of links would be an image of
/// links.
fn copy_config_map(
    mount: &Path,
    root: &Path,
    name: &str,
    expected: &[String],
) -> Result<(), BuildFailure> {
    let missing = |what: String| BuildFailure::new(FailureReason::ConfigMapMissing, what);
    make_root(root)
        .and_then(|()| copy_folder(mount, root))
        .map_err(|error| missing(format!("ConfigMap {name:?} cannot be read: {error}")))?;
    if fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none()) {
        return Err(missing(format!(
            "source.configMap: ConfigMap {name:?} does not exist or is empty"
        )));
    }
    match expected.iter().find(|path| !root.join(path).is_file()) {
        Some(path) => {
            Err(missing(format!("source.configMap: ConfigMap {name:?} lacks the key of {path:?}")))
        }
        None => Ok(()),
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"..") {
            continue;
        }
        let target = to.join(entry.file_name());
        if fs::metadata(entry.path())?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::{FailureReason, copy_config_map, directory};

    #[test]
    fn a_link_on_the_volume_does_not_make_the_runners_own_files_a_source() {
        let volume = tempfile::tempdir().unwrap();
        let credentials = tempfile::tempdir().unwrap();
        fs::create_dir(volume.path().join("app")).unwrap();
        symlink(credentials.path(), volume.path().join("link")).unwrap();
        symlink("app", volume.path().join("inside")).unwrap();
        for (path, is_found) in [
            ("", true),
            ("app", true),
            ("inside", true),
            ("link", false),
            ("app/../..", false),
            ("none", false),
        ] {
            assert_eq!(directory(volume.path(), path).is_ok(), is_found, "{path}");
        }
    }

    #[test]
    fn a_mounted_config_map_becomes_plain_files() {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mount");
        fs::create_dir_all(mount.join("..2026/src")).unwrap();
        fs::write(mount.join("..2026/Dockerfile"), "FROM scratch").unwrap();
        fs::write(mount.join("..2026/src/main.c"), "int main;").unwrap();
        symlink("..2026", mount.join("..data")).unwrap();
        symlink("..data/Dockerfile", mount.join("Dockerfile")).unwrap();
        symlink("..data/src", mount.join("src")).unwrap();
        let root = folder.path().join("source");
        copy_config_map(&mount, &root, "map", &["src/main.c".to_owned()]).unwrap();
        assert!(fs::symlink_metadata(root.join("Dockerfile")).unwrap().is_file());
        assert_eq!(fs::read_to_string(root.join("src/main.c")).unwrap(), "int main;");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    }

    #[test]
    fn a_missing_config_map_or_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mount")).unwrap();
        let missing =
            copy_config_map(&folder.path().join("mount"), &folder.path().join("a"), "map", &[])
                .unwrap_err();
        assert_eq!(missing.reason, FailureReason::ConfigMapMissing);
        assert_eq!(
            missing.message,
            "source.configMap: ConfigMap \"map\" does not exist or is empty"
        );
    }
}
