//! Archives: of a source, and of an image.

use std::{
    fs::{self, File},
    io::{Seek, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use ocibuild::runner::{
    image_tar::ImageTar,
    oci_layout,
    unpack::{Devices, unpack, unpack_stream},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::hold;

const PARTS: &[&str] = &["a", "b", "link", "..", ".", "", "ä", "outside", "/"];
const KINDS: &[u8] = b"0005522111357gxKLS3Z";
/// Whatever an archive holds, these stay what they are.
const KEPT: [(&str, &str); 2] = [("outside/file", "kept"), ("beside", "kept")];

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    target: String,
    kind: u8,
    mode: u32,
    content: Vec<u8>,
    size: Option<u64>,
    is_pax: bool,
}

fn a_path() -> impl Strategy<Value = String> {
    let path =
        prop::collection::vec(prop::sample::select(PARTS), 1..4).prop_map(|parts| parts.join("/"));
    prop_oneof![30 => path, 1 => Just("long/".repeat(60)), 1 => "[^\0]{1,30}"]
}

fn an_entry() -> impl Strategy<Value = Entry> {
    let mode = prop_oneof![
        Just(0o755),
        Just(0o4777),
        Just(0),
        any::<u32>().prop_map(|mode| mode & 0o7777)
    ];
    let size = prop_oneof![20 => Just(None), 1 => any::<u64>().prop_map(Some), 1 => (0..2000_u64).prop_map(Some)];
    (
        a_path(),
        a_path(),
        prop::sample::select(KINDS),
        mode,
        prop::collection::vec(any::<u8>(), 0..20),
        size,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(path, target, kind, mode, content, size, is_pax)| Entry {
            path,
            target,
            kind,
            mode,
            content,
            size,
            is_pax,
        })
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(entry.kind));
        header.set_mode(entry.mode);
        header.set_mtime(1);
        header.set_size(entry.size.unwrap_or(entry.content.len() as u64));
        let old = header.as_old_mut();
        // The crate's own setters refuse the paths that this is about.
        for (field, text) in [(&mut old.name, &entry.path), (&mut old.linkname, &entry.target)] {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text.as_bytes()[..length]);
        }
        header.set_cksum();
        if entry.is_pax {
            let extensions = [
                ("path", entry.path.as_bytes()),
                ("linkpath", entry.target.as_bytes()),
                ("size", b"3"),
            ];
            builder.append_pax_extensions(extensions).unwrap();
        }
        builder.append(&header, entry.content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Memory, not a disk, where there is such a folder.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// A folder `root` to unpack to, with a link in it that leads out, and what lies beside it.
fn surroundings(folder: &Path) {
    fs::create_dir_all(folder.join("root")).unwrap();
    fs::create_dir_all(folder.join("outside")).unwrap();
    for (path, content) in KEPT {
        fs::write(folder.join(path), content).unwrap();
        fs::set_permissions(folder.join(path), fs::Permissions::from_mode(0o600)).unwrap();
    }
    symlink("../outside", folder.join("root/link")).unwrap();
}

fn state(folder: &Path) -> Vec<(String, u32, i64, u64)> {
    let mut paths: Vec<_> = ["", "outside"]
        .iter()
        .flat_map(|below| fs::read_dir(folder.join(below)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .filter(|path| path.file_name().is_none_or(|name| name != "root"))
        .map(|path| {
            let metadata = path.symlink_metadata().unwrap();
            (path.display().to_string(), metadata.mode(), metadata.mtime(), metadata.nlink())
        })
        .collect()
}

fn stays_inside(unpack: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), TestCaseError> {
    let folder = folder();
    surroundings(folder.path());
    let before = state(folder.path());
    let result = unpack(&folder.path().join("root"));
    let after = state(folder.path());
    // The root's own mode may be what an entry `.` says.
    fs::set_permissions(folder.path().join("root"), fs::Permissions::from_mode(0o755)).unwrap();
    prop_assert_eq!(before, after, "{:?}", result);
    for (path, content) in KEPT {
        prop_assert_eq!(fs::read_to_string(folder.path().join(path)).unwrap(), content);
    }
    Ok(())
}

#[test]
fn archives_that_are_almost_right_write_nothing_outside_their_root() {
    let devices = prop::sample::select(vec![Devices::Refuse, Devices::LeaveOut]);
    hold(2, (prop::collection::vec(an_entry(), 0..6), devices), |(entries, devices)| {
        let bytes = archive(&entries);
        stays_inside(|root| unpack_stream(bytes.as_slice(), root, devices).map(drop))
    });
}

#[test]
fn any_bytes_may_follow_the_first_of_an_archive() {
    let magic = prop::sample::select(vec![&b""[..], b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]);
    let archives = folder();
    let file = tempfile::NamedTempFile::new_in(archives.path()).unwrap();
    hold(4, (magic, prop::collection::vec(any::<u8>(), 0..600)), |(magic, bytes)| {
        fs::write(file.path(), [magic, &bytes].concat()).unwrap();
        stays_inside(|root| unpack(file.path(), root))
    });
}

/// An image's tar: documents and layers under digests that may or may not be theirs.
fn an_image() -> impl Strategy<Value = Vec<u8>> {
    let digest = || {
        prop::sample::select(vec!["a", "b", "c"])
            .prop_map(|letter| format!("sha256:{}", letter.repeat(64)))
    };
    let size = prop_oneof![
        Just(Value::from(3)),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        Just(Value::Null)
    ];
    let kind = prop::sample::select(vec![
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "",
    ]);
    let descriptor = (digest(), size, kind).prop_map(
        |(digest, size, kind)| json!({ "digest": digest, "size": size, "mediaType": kind }),
    );
    let index = || {
        prop::collection::vec(descriptor.clone(), 0..3)
            .prop_map(|manifests| json!({ "manifests": manifests }).to_string())
    };
    let manifest = (descriptor.clone(), prop::collection::vec(descriptor.clone(), 0..3))
        .prop_map(|(config, layers)| json!({ "config": config, "layers": layers }).to_string());
    let config = any::<String>().prop_map(|text| {
        json!({ "os": text, "architecture": "amd64", "config": { "Env": [text] } }).to_string()
    });
    let document = prop_oneof![index(), manifest, config, any::<String>()];
    let name = prop_oneof![
        6 => digest().prop_map(|digest| format!("./blobs/sha256/{}", &digest[7..])),
        1 => a_path(),
        1 => Just("oci-layout".to_owned()),
    ];
    let target = digest().prop_map(|digest| format!("blobs/sha256/{}", &digest[7..]));
    let blobs = prop::collection::vec(
        (name, document, prop::sample::select(b"000012".as_slice()), target),
        0..6,
    );
    (index(), blobs).prop_map(|(index, blobs)| {
        let file = |path, content: String, kind, target| {
            let content = if kind == b'0' { content.into_bytes() } else { Vec::new() };
            Entry { path, target, kind, mode: 0o644, content, size: None, is_pax: false }
        };
        let blobs = blobs
            .into_iter()
            .map(|(path, document, kind, target)| file(path, document, kind, target));
        archive(
            &[file("index.json".to_owned(), index, b'0', String::new())]
                .into_iter()
                .chain(blobs)
                .collect::<Vec<_>>(),
        )
    })
}

fn reads_an_image(bytes: &[u8], file: &mut File) -> Result<(), TestCaseError> {
    file.rewind().unwrap();
    file.set_len(0).unwrap();
    file.write_all(bytes).unwrap();
    let Ok(mut image) = ImageTar::open(file.try_clone().unwrap()) else { return Ok(()) };
    let contents = oci_layout::contents(&mut image);
    if let Ok(contents) = contents {
        prop_assert!(contents.size >= 0, "an image of {} bytes", contents.size);
        let _ = contents.config.metadata();
    }
    let names: Vec<String> = image.names().map(str::to_owned).collect();
    for name in names {
        prop_assert!(
            !Path::new(&name).is_absolute() && !name.split('/').any(|part| part == ".."),
            "{name:?}"
        );
        let _ = image.document(&name);
    }
    Ok(())
}

#[test]
fn images_that_are_almost_right_are_read_or_refused() {
    let mut file = tempfile::tempfile_in(folder().path().parent().unwrap()).unwrap();
    let file = std::cell::RefCell::new(&mut file);
    hold(8, an_image(), |bytes| reads_an_image(&bytes, &mut file.borrow_mut()));
}

#[test]
fn images_whose_bytes_are_damaged_are_read_or_refused() {
    let mut file = tempfile::tempfile_in(folder().path().parent().unwrap()).unwrap();
    let file = std::cell::RefCell::new(&mut file);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    hold(8, (an_image(), damage), |(mut bytes, damage)| {
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        reads_an_image(&bytes, &mut file.borrow_mut())
    });
}

/// A small file that is a gibibyte of one entry's name when it is decompressed.
fn bomb(kind: u8) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::new(kind));
    header.set_size(1 << 30);
    header.set_cksum();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(header.as_bytes()).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(b'a'), 1 << 30), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn names_of_any_length_take_little_memory() {
    let folder = folder();
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let path = folder.path().join("bomb");
        fs::write(&path, bomb(kind.as_byte())).unwrap();
        let error = unpack(&path, folder.path()).unwrap_err().to_string();
        assert!(error.contains("names of an entry"), "{error}");

        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 30);
        header.set_cksum();
        let mut image = tempfile::tempfile_in(folder.path()).unwrap();
        image.write_all(header.as_bytes()).unwrap();
        image.set_len(2 << 30).unwrap();
        assert!(
            ImageTar::open(image)
                .is_err_and(|error| error.to_string().contains("names of an entry"))
        );
    }
}
