//! Puts the layers of an artifact below the source's root. They are a tenant's: no path leaves the root, not even by a link that
//! another layer brought.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    failure::{invalid, not_written},
    manifest::{Layer, Use},
};
use crate::{
    api::FailureReason,
    runner::{result::BuildFailure, unpack::unpack},
};

/// Whether a layer had files for the source.
#[derive(Debug, PartialEq, Eq)]
pub enum Placed {
    /// They are below the root.
    Yes,
    /// It is neither an archive nor a file with a name.
    No,
}

/// Unpacks a downloaded layer, or moves it to its place.
pub async fn place(layer: Layer, download: PathBuf, root: PathBuf) -> Result<Placed, BuildFailure> {
    let placing = tokio::task::spawn_blocking(move || place_now(&layer, &download, &root));
    placing
        .await
        .unwrap_or_else(|error| Err(BuildFailure::new(FailureReason::Internal, error.to_string())))
}

fn place_now(layer: &Layer, download: &Path, root: &Path) -> Result<Placed, BuildFailure> {
    let refused = |what: &str, error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => not_written(error),
        _ => invalid(format!("layer {} cannot be {what}: {error}", layer.digest)),
    };
    match layer.purpose()? {
        Use::File(path) => {
            move_below(root, &path, download).map_err(|error| refused("written", error))?;
        }
        Use::Look if !is_archive(download).map_err(not_written)? => return Ok(Placed::No),
        Use::Look | Use::Unpack => {
            unpack(download, root).map_err(|error| refused("unpacked", error))?;
        }
    }
    Ok(Placed::Yes)
}

/// A rename replaces a link, it does not follow it; the folders above are checked one by one.
fn move_below(root: &Path, path: &Path, download: &Path) -> io::Result<()> {
    let mut folder = root.to_owned();
    for component in path.parent().into_iter().flat_map(Path::components) {
        folder.push(component);
        match fs::symlink_metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(io::Error::other(format!(
                    "{} leads through what is no folder",
                    path.display()
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&folder)?,
            Err(error) => return Err(error),
        }
    }
    fs::set_permissions(download, Permissions::from_mode(0o644))?;
    fs::rename(download, root.join(path))
}

/// By the first bytes: gzip, zstd, or the mark of a tar's first header.
fn is_archive(file: &Path) -> io::Result<bool> {
    let mut begin = Vec::new();
    File::open(file)?.take(262).read_to_end(&mut begin)?;
    Ok(begin.starts_with(&[0x1f, 0x8b])
        || begin.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || begin.get(257..) == Some(b"ustar"))
}

/// The failure of an artifact that brought no files.
pub fn nothing_usable(layers: &[Layer]) -> BuildFailure {
    let types =
        layers.iter().take(5).map(|layer| format!("{:?}", layer.media_type)).collect::<Vec<_>>();
    let what = if types.is_empty() {
        "it has no layers".to_owned()
    } else {
        format!("its layers are {}", types.join(", "))
    };
    invalid(format!(
        "the artifact has no files for a source: {what}; a layer must be a tar or have a title \
         (org.opencontainers.image.title), as `flux push artifact` and `oras push` make them"
    ))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
        path::Path,
    };

    use super::move_below;

    #[test]
    fn a_file_is_not_written_through_a_link_that_another_layer_brought() {
        let work = tempfile::tempdir().unwrap();
        let root = work.path().join("source");
        fs::create_dir_all(root.join("app")).unwrap();
        fs::create_dir(work.path().join("outside")).unwrap();
        fs::write(work.path().join("victim"), "untouched").unwrap();
        symlink("../outside", root.join("link")).unwrap();
        symlink("../victim", root.join("file")).unwrap();
        for (path, is_written) in [
            ("app/a", true),
            ("new/folder/b", true),
            ("file", true),
            ("link/c", false),
            ("app/a/d", false),
            ("app", false),
        ] {
            let download = work.path().join("download");
            fs::write(&download, "content").unwrap();
            fs::set_permissions(&download, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(move_below(&root, Path::new(path), &download).is_ok(), is_written, "{path}");
            if is_written {
                let metadata = fs::symlink_metadata(root.join(path)).unwrap();
                assert!(
                    metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o644,
                    "{path}"
                );
            }
        }
        assert_eq!(fs::read_to_string(work.path().join("victim")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(work.path().join("outside")).unwrap().count(), 0);
    }
}
