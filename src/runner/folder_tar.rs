//! A folder as a tar, with what is in it that nobody may read.

use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Appends what is in a folder. An image may hold files that not even their owner may read, such as an `/etc/shadow` of mode 000:
/// what a mode forbids is allowed for as long as the reading takes, and the archive tells the mode as it was.
pub fn append_content(builder: &mut tar::Builder<impl Write>, root: &Path) -> io::Result<()> {
    let mut entered = Entered(vec![Folder::enter(root.to_owned())?]);
    while let Some(folder) = entered.0.last_mut() {
        let Some(name) = folder.names.pop() else {
            entered.0.pop();
            continue;
        };
        let path = folder.path.join(name);
        let below = path.strip_prefix(root).map_err(io::Error::other)?;
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            // Before it is entered: its mode may be another one then.
            builder.append_dir(below, &path)?;
            entered.0.push(Folder::enter(path)?);
        } else if kind.is_file() {
            let (mut file, allowed) = allowing(&path, 0o400, || File::open(&path))?;
            // The mode is read from the open file, and must be its own again.
            drop(allowed);
            builder.append_file(below, &mut file)?;
        } else if kind.is_symlink() {
            builder.append_path_with_name(&path, below)?;
        }
    }
    Ok(())
}

/// The folders on the way to what is being appended, the outermost first.
struct Entered(Vec<Folder>);

impl Drop for Entered {
    fn drop(&mut self) {
        // From within: behind a folder that is closed again no mode can be restored.
        while self.0.pop().is_some() {}
    }
}

/// A folder whose entries are being appended.
struct Folder {
    path: PathBuf,
    names: Vec<OsString>,
    _allowed: Option<Allowed>,
}

impl Folder {
    fn enter(path: PathBuf) -> io::Result<Self> {
        let list = || {
            // Who may list a folder may not always look at what is in it.
            path.join(".").symlink_metadata()?;
            fs::read_dir(&path)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<Vec<_>>>()
        };
        let (names, allowed) = allowing(&path, 0o500, list)?;
        Ok(Self { path, names, _allowed: allowed })
    }
}

/// What is read at a path. If its mode forbids that, the mode is widened until the second part of the answer is dropped.
fn allowing<T>(
    path: &Path,
    mode: u32,
    read: impl Fn() -> io::Result<T>,
) -> io::Result<(T, Option<Allowed>)> {
    match read() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let allowed = Allowed::widen(path, mode)?;
            Ok((read()?, Some(allowed)))
        }
        read => Ok((read?, None)),
    }
}

/// A mode that is wider for a while.
struct Allowed {
    path: PathBuf,
    before: Permissions,
}

impl Allowed {
    fn widen(path: &Path, mode: u32) -> io::Result<Self> {
        let before = fs::symlink_metadata(path)?.permissions();
        fs::set_permissions(path, Permissions::from_mode(before.mode() | mode))?;
        Ok(Self { path: path.to_owned(), before })
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.path, self.before.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs::{self, Permissions},
        io,
        os::unix::fs::{PermissionsExt, symlink},
        path::Path,
    };

    use super::{allowing, append_content};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_its_owner_may_not_read_is_packed_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["etc", "blind/inner", "listed", "shut"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let files = [
            ("etc/shadow", 0o000),
            ("etc/passwd", 0o644),
            ("blind/inner/file", 0o200),
            ("listed/file", 0o4711),
        ];
        let folders = [
            ("blind/inner", 0o100),
            ("blind", 0o300),
            ("listed", 0o600),
            ("shut", 0o000),
            ("etc", 0o1755),
        ];
        for (name, _) in files {
            fs::write(root.join(name), name).unwrap();
        }
        symlink("/etc/shadow", root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let modes = files.iter().chain(&folders);
        for (name, mode) in modes.clone() {
            fs::set_permissions(root.join(name), Permissions::from_mode(*mode)).unwrap();
        }
        for _ in 0..2 {
            let mut builder = tar::Builder::new(Vec::new());
            builder.follow_symlinks(false);
            append_content(&mut builder, root).unwrap();
            let bytes = builder.into_inner().unwrap();
            let mut found = BTreeMap::new();
            for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
                let mut entry = entry.unwrap();
                let (name, header) =
                    (entry.path().unwrap().display().to_string(), entry.header().clone());
                if header.entry_type().is_file() {
                    assert_eq!(io::read_to_string(&mut entry).unwrap(), name);
                }
                if header.entry_type().is_symlink() {
                    assert_eq!(header.link_name_bytes().unwrap().as_ref(), b"/etc/shadow");
                    continue;
                }
                found.insert(name, header.mode().unwrap() & 0o7777);
            }
            let expected: BTreeMap<_, _> =
                modes.clone().map(|(name, mode)| ((*name).to_owned(), *mode)).collect();
            assert_eq!(found, expected, "and so a second time");
        }
        // For the folder to be taken away.
        for (name, _) in folders.iter().rev() {
            fs::set_permissions(root.join(name), Permissions::from_mode(0o700)).unwrap();
        }
    }

    #[test]
    fn a_mode_is_widened_only_where_it_forbids_something_and_only_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        // Nothing is forbidden to root, as whom the tests may run.
        let read = |wanted: u32| {
            let path = path.clone();
            move || {
                if mode(&path) & wanted == wanted {
                    Ok(mode(&path))
                } else {
                    Err(io::Error::from(io::ErrorKind::PermissionDenied))
                }
            }
        };
        for (before, during) in [(0o000, 0o400), (0o4210, 0o4610), (0o444, 0o444)] {
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            let (found, allowed) = allowing(&path, 0o400, read(0o400)).unwrap();
            assert_eq!((found, mode(&path), allowed.is_some()), (during, during, before != during));
            drop(allowed);
            assert_eq!(mode(&path), before);
            assert_eq!(
                allowing(&path, 0o400, read(0o001)).err().map(|error| error.kind()),
                Some(io::ErrorKind::PermissionDenied)
            );
            assert_eq!(mode(&path), before, "it is restored after an error too");
        }
    }
}
