//! Unpacks archives: a source's, and the files of an image. An archive is a tenant's: nothing is written outside the root, links
//! are not followed while unpacking, no device is made, and sizes are bounded.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Component, Path},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use tar::EntryType;

use super::{locate::below, tar_names::Budget};

/// Most that an archive may unpack to. The volume's own limit is usually lower.
const BYTES_LIMIT: u64 = 64 << 30;
const ENTRIES_LIMIT: u64 = 5_000_000;
/// Bytes of a path (Linux: PATH_MAX). The folders of a longer one could be made one in the other, at great length.
const PATH_LIMIT: usize = 4096;

/// What is done with devices, pipes and other entries that are neither files, folders nor links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// A source may not hold them.
    Refuse,
    /// An image may hold them; they are left out.
    LeaveOut,
}

/// Unpacks a tar, plain or compressed by gzip or zstd, recognised by its first bytes.
pub fn unpack(archive: &Path, root: &Path) -> io::Result<()> {
    unpack_any(File::open(archive)?, root)
}

/// The same as it comes, up to the last byte.
pub fn unpack_any(mut archive: impl Read, root: &Path) -> io::Result<()> {
    let mut magic = Vec::with_capacity(4);
    archive.by_ref().take(4).read_to_end(&mut magic)?;
    let mut archive = BufReader::with_capacity(1 << 18, magic.as_slice().chain(archive));
    match *magic {
        [0x1f, 0x8b, ..] => unpack_stream(
            flate2::bufread::MultiGzDecoder::new(&mut archive),
            root,
            Devices::Refuse,
        )?,
        [0x28, 0xb5, 0x2f, 0xfd] => {
            unpack_stream(zstd::Decoder::with_buffer(&mut archive)?, root, Devices::Refuse)?
        }
        _ => unpack_stream(&mut archive, root, Devices::Refuse)?,
    };
    io::copy(&mut archive, &mut io::sink()).map(drop)
}

/// Unpacks a plain tar as it comes; how many devices were left out.
pub fn unpack_stream(reader: impl Read, root: &Path, devices: Devices) -> io::Result<u64> {
    let (budget, reader) = Budget::of(reader.take(BYTES_LIMIT));
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    // Only root can give files away; in the pod they belong to the runner.
    let keeps_owners = rustix::process::geteuid().is_root() && devices == Devices::LeaveOut;
    archive.set_preserve_ownerships(keeps_owners);
    let beneath = File::open(root)?;
    let root = &root.canonicalize()?;
    let (mut count, mut left_out) = (0, 0);
    let mut folders = Vec::new();
    let mut entries = archive.entries()?;
    while let Some(entry) = budget.next(&mut entries) {
        let mut entry = entry?;
        count += 1;
        if count > ENTRIES_LIMIT {
            return Err(io::Error::other(format!(
                "the archive has more than {ENTRIES_LIMIT} entries"
            )));
        }
        let path = entry.path()?.into_owned();
        if path.as_os_str().len() > PATH_LIMIT {
            return Err(io::Error::other(format!(
                "a path of {} bytes is longer than {PATH_LIMIT}",
                path.as_os_str().len()
            )));
        }
        match entry.header().entry_type() {
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link => {}
            EntryType::XGlobalHeader => {
                io::copy(&mut entry, &mut io::sink())?;
                continue;
            }
            _ if devices == Devices::LeaveOut => {
                left_out += 1;
                io::copy(&mut entry, &mut io::sink())?;
                continue;
            }
            other => {
                return Err(io::Error::other(format!(
                    "{} is a {other:?}, which a source may not hold",
                    path.display()
                )));
            }
        }
        let mode = entry.header().mode().unwrap_or(0o755);
        let modified = entry
            .header()
            .mtime()
            .ok()
            .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        if !keeps_owners && let Some(file) = new_file(&beneath, &entry, &path) {
            fill(file, &mut entry, mode, modified)?;
            continue;
        }
        // The tar crate refuses what would be written through '..' or a link that leads out of the root.
        if !entry.unpack_in(root)? {
            return Err(io::Error::other(format!(
                "{} leads out of the archive's root",
                path.display()
            )));
        }
        // What the tar crate has not read of a folder or a link that has a content.
        io::copy(&mut entry, &mut io::sink())?;
        if entry.header().entry_type() == EntryType::Directory
            && let Some(folder) = below(root, &path)
        {
            // Writable until its files are there; its own mode comes last.
            fs::set_permissions(&folder, Permissions::from_mode(mode | 0o700))?;
            folders.push((folder, mode, modified));
        }
    }
    if count == 0 {
        return Err(io::Error::other("it is not a tar archive, or an empty one"));
    }
    for (folder, mode, modified) in folders.into_iter().rev() {
        // The files that came into it have changed it.
        if let Some(modified) = modified {
            File::open(&folder)?.set_modified(modified)?;
        }
        fs::set_permissions(folder, Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(left_out)
}

/// Most entries are files that are not there yet, in folders that are: these are made in one call, in which the kernel sees to it
/// that the path stays beneath the root and goes through no link. All others are for the tar crate, which asks a dozen times.
fn new_file(root: &File, entry: &tar::Entry<'_, impl Read>, path: &Path) -> Option<File> {
    let is_plain =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if entry.header().entry_type() != EntryType::Regular
        || !is_plain
        || entry.path_bytes().ends_with(b"/")
    {
        return None;
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags, Mode::RUSR | Mode::WUSR, beneath).ok().map(File::from)
}

fn fill(
    mut file: File,
    entry: &mut impl Read,
    mode: u32,
    modified: Option<SystemTime>,
) -> io::Result<()> {
    io::copy(entry, &mut file)?;
    if let Some(modified) = modified {
        // As the tar crate does: some tools do not take files of the time zero.
        file.set_modified(modified.max(UNIX_EPOCH + Duration::from_secs(1)))?;
    }
    file.set_permissions(Permissions::from_mode(mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, os::unix::fs::PermissionsExt};

    use proptest::prelude::*;

    use super::{EntryType, unpack};

    fn header(path: &str, kind: EntryType, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o755);
        // The crate's own setter refuses the paths that these tests are about.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header
    }

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            let body = if is_link { "" } else { content };
            let mut header = header(path, *kind, body.len());
            if is_link {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, body.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, std::io::Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::write(folder.path().join("archive"), bytes).unwrap();
        let result = unpack(&folder.path().join("archive"), &folder.path().join("root"));
        (folder, result)
    }

    #[test]
    fn plain_gzip_and_zstd_archives_keep_modes_and_links() {
        let plain = archive(&[
            ("app", EntryType::Directory, ""),
            ("app/run.sh", EntryType::Regular, "#!/bin/sh"),
            ("app/link", EntryType::Symlink, "run.sh"),
        ]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        for bytes in
            [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(plain.as_slice(), 1).unwrap()]
        {
            let (folder, result) = unpacked(&bytes);
            result.unwrap();
            let app = folder.path().join("root/app");
            assert_eq!(fs::read_to_string(app.join("link")).unwrap(), "#!/bin/sh");
            assert_eq!(fs::read_link(app.join("link")).unwrap().to_str(), Some("run.sh"));
            assert_eq!(
                fs::metadata(app.join("run.sh")).unwrap().permissions().mode() & 0o777,
                0o755
            );
        }
    }

    #[test]
    fn archives_that_lead_out_of_their_root_or_hold_devices_are_refused() {
        for entries in [
            vec![("../escaped", EntryType::Regular, "x")],
            vec![("a/../../escaped", EntryType::Regular, "x")],
            vec![("link", EntryType::Symlink, ".."), ("link/escaped", EntryType::Regular, "x")],
            vec![
                ("link", EntryType::Symlink, "/tmp"),
                ("link/escaped-by-ocibuild", EntryType::Regular, "x"),
            ],
            vec![("hard", EntryType::Link, "../archive"), ("hard", EntryType::Regular, "x")],
            vec![("device", EntryType::Char, "")],
            vec![("pipe", EntryType::Fifo, "")],
        ] {
            let (folder, result) = unpacked(&archive(&entries));
            assert!(result.is_err(), "{entries:?}");
            assert!(
                !folder.path().join("escaped").exists()
                    && !std::path::Path::new("/tmp/escaped-by-ocibuild").exists()
            );
        }
    }

    #[test]
    fn names_and_attributes_have_a_limit() {
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            for (size, is_taken) in [(4000, true), (64 << 20, false)] {
                let value = "x".repeat(size);
                // A record of a PAX header counts its own length.
                let record = format!(" comment={value}\n");
                let length = (record.len()..record.len() + 20)
                    .find(|length| length.to_string().len() + record.len() == *length)
                    .unwrap();
                let content =
                    if kind == EntryType::XHeader { format!("{length}{record}") } else { value };
                let mut header = header("long", kind, content.len());
                header.set_cksum();
                let mut builder = tar::Builder::new(Vec::new());
                builder.append(&header, content.as_bytes()).unwrap();
                let mut file = self::header("file", EntryType::Regular, 1);
                file.set_cksum();
                builder.append(&file, &b"x"[..]).unwrap();
                let result = unpacked(&builder.into_inner().unwrap()).1;
                let says = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
                assert_eq!(
                    says.contains("longer than 1048576 bytes"),
                    !is_taken,
                    "{kind:?} of {size}: {says}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        for bytes in [
            &b""[..],
            b"hello",
            b"\x1f\x8bnonsense",
            b"\x28\xb5\x2f\xfdnonsense",
            b"<html>not found</html>",
        ] {
            assert!(unpacked(bytes).1.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_archive_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048), prefix in 0..3usize) {
            let magic: &[u8] = [&b""[..], b"\x1f\x8b", b"\x28\xb5\x2f\xfd"][prefix];
            let _ = unpacked(&[magic, &bytes].concat());
        }
    }
}
