//! Files that parameters name. Whoever opens a pipe waits until somebody writes to it, and `/dev/zero` has no end: only files are
//! read, and only small ones.

use std::{fs, io, path::Path};

/// Most bytes of such a file: a Secret may be 1 MiB large.
const LIMIT: u64 = 1 << 20;

/// The bytes of a file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.len() > LIMIT {
        return Err(io::Error::other(format!(
            "it has {} bytes; at most {LIMIT} are read",
            metadata.len()
        )));
    }
    fs::read(path)
}

/// The same as text.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::Error::other("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::{LIMIT, fs, read, read_text};

    #[test]
    fn only_small_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("key"), "hunter2").unwrap();
        assert_eq!(read_text(&path("key")).unwrap(), "hunter2");
        fs::File::create(path("huge")).unwrap().set_len(LIMIT + 1).unwrap();
        std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        for (name, words) in [
            ("pipe", "not a file"),
            (".", "not a file"),
            ("huge", "has 1048577 bytes"),
            ("none", "No such file"),
            ("/dev/zero", "not a file"),
        ] {
            let error = read(&path(name)).unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
    }
}
