//! Where in the source the context and the Dockerfile are. The source is a tenant's: no path leaves it, not even by a link.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::result::BuildFailure;
use crate::api::FailureReason;

/// Names listed in a message.
const LISTED: usize = 20;

/// Context and Dockerfile, both below the source's root.
#[derive(Debug, PartialEq, Eq)]
pub struct Located {
    /// The source's root.
    pub root: PathBuf,
    /// The folder that BuildKit gets as context.
    pub context: PathBuf,
    /// The folder that holds the Dockerfile.
    pub dockerfile_directory: PathBuf,
    /// Its name there.
    pub dockerfile_name: String,
}

/// Finds both. A Dockerfile that is named is looked for below the source's root first, then below the context: that
/// satisfies the task's documentation, its own example and what the task really does.
pub fn locate(
    root: &Path,
    context: &str,
    dockerfile: Option<&str>,
) -> Result<Located, BuildFailure> {
    let real_root = root.canonicalize().map_err(|error| {
        BuildFailure::new(
            FailureReason::SourceNotFound,
            format!("the source's root does not exist in its volume: {error}"),
        )
    })?;
    let context_path =
        below(&real_root, Path::new(context)).filter(|path| path.is_dir()).ok_or_else(|| {
            let message = format!(
                "context {context:?} is not a folder of the source; the source holds {}",
                listing(&real_root)
            );
            BuildFailure::new(FailureReason::ContextMissing, message)
        })?;
    let candidates = match dockerfile {
        None => vec![(context_path.clone(), "Dockerfile")],
        Some(path) => vec![(real_root.clone(), path), (context_path.clone(), path)],
    };
    let is_file = |(base, path): &(PathBuf, &str)| {
        below_root(&real_root, base, Path::new(path)).filter(|path| path.is_file())
    };
    let Some(file) = candidates.iter().find_map(is_file) else {
        let mut tried = candidates
            .iter()
            .map(|(base, path)| shown(&real_root, &base.join(path)))
            .collect::<Vec<_>>();
        tried.dedup();
        let message = format!(
            "no Dockerfile at {}; the context holds {}",
            tried.join(" nor at "),
            listing(&context_path)
        );
        return Err(BuildFailure::new(FailureReason::DockerfileMissing, message));
    };
    let (Some(directory), Some(name)) = (file.parent(), file.file_name()) else {
        return Err(BuildFailure::new(
            FailureReason::DockerfileMissing,
            "the Dockerfile has no name".to_owned(),
        ));
    };
    Ok(Located {
        root: real_root,
        dockerfile_directory: directory.to_owned(),
        dockerfile_name: name.to_string_lossy().into_owned(),
        context: context_path,
    })
}

/// A path below a root with every link followed, or nothing if it does not exist or leaves the root.
pub fn below(root: &Path, path: &Path) -> Option<PathBuf> {
    below_root(root, root, path)
}

fn below_root(root: &Path, base: &Path, path: &Path) -> Option<PathBuf> {
    let is_plain = path
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    let real = base.join(path).canonicalize().ok()?;
    (is_plain && real.starts_with(root)).then_some(real)
}

fn shown(root: &Path, path: &Path) -> String {
    format!("{:?}", path.strip_prefix(root).unwrap_or(path).to_string_lossy())
}

/// Names in a folder, for a message.
pub fn listing(directory: &Path) -> String {
    let names = || -> io::Result<Vec<String>> {
        fs::read_dir(directory)?
            .take(1000)
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    let Ok(mut names) = names() else { return "what cannot be read".to_owned() };
    names.sort();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    match (names.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::{FailureReason, locate};

    /// A source with `source-code/Dockerfile`, `build/Dockerfile.app`, and links that lead astray.
    fn source() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["source-code/docker", "build"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for file in
            ["source-code/Dockerfile", "source-code/docker/Dockerfile", "build/Dockerfile.app"]
        {
            fs::write(root.path().join(file), "FROM scratch").unwrap();
        }
        symlink("/etc", root.path().join("outside")).unwrap();
        symlink("/etc/hostname", root.path().join("source-code/stolen")).unwrap();
        symlink("source-code", root.path().join("inside")).unwrap();
        root
    }

    #[test]
    fn both_readings_of_a_dockerfiles_path_are_understood() {
        let root = source();
        for (context, dockerfile, directory, name) in [
            ("source-code", None, "source-code", "Dockerfile"),
            ("source-code", Some("source-code/Dockerfile"), "source-code", "Dockerfile"),
            ("source-code", Some("docker/Dockerfile"), "source-code/docker", "Dockerfile"),
            ("source-code", Some("build/Dockerfile.app"), "build", "Dockerfile.app"),
            ("./source-code/", None, "source-code", "Dockerfile"),
            ("inside", None, "source-code", "Dockerfile"),
        ] {
            let located = locate(root.path(), context, dockerfile).unwrap();
            let real_root = root.path().canonicalize().unwrap();
            assert_eq!(located.context, real_root.join("source-code"), "{context} {dockerfile:?}");
            assert_eq!(
                located.dockerfile_directory,
                real_root.join(directory),
                "{context} {dockerfile:?}"
            );
            assert_eq!(located.dockerfile_name, name);
        }
    }

    #[test]
    fn what_is_missing_or_leads_out_of_the_source_is_named() {
        let root = source();
        for (context, dockerfile, reason, words) in [
            (
                "app",
                None,
                FailureReason::ContextMissing,
                "\"app\" is not a folder of the source; the source holds build, inside, outside, source-code",
            ),
            ("outside", None, FailureReason::ContextMissing, "\"outside\""),
            ("../..", None, FailureReason::ContextMissing, "\"../..\""),
            ("/etc", None, FailureReason::ContextMissing, "\"/etc\""),
            (
                "build",
                None,
                FailureReason::DockerfileMissing,
                "no Dockerfile at \"build/Dockerfile\"; the context holds Dockerfile.app",
            ),
            (
                "source-code",
                Some("x/y"),
                FailureReason::DockerfileMissing,
                "no Dockerfile at \"x/y\" nor at \"source-code/x/y\"",
            ),
            ("source-code", Some("stolen"), FailureReason::DockerfileMissing, "stolen"),
            (
                "source-code",
                Some("outside/hostname"),
                FailureReason::DockerfileMissing,
                "outside/hostname",
            ),
            ("source-code", Some("docker"), FailureReason::DockerfileMissing, "docker"),
        ] {
            let failure = locate(root.path(), context, dockerfile).unwrap_err();
            assert_eq!(failure.reason, reason, "{context} {dockerfile:?}");
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }
}
