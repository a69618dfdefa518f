use std::{
    fs::{self, File},
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
};

use super::{Archive, PackError, Selection, append_file, append_open, pack};
use crate::runner::unpack::unpack;

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn packed(folder: &Path, selection: &Selection) -> Result<(Archive, Vec<String>), PackError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let archive = pack(folder, selection, file.reopen().unwrap())?;
    assert_eq!(fs::metadata(file.path()).unwrap().len(), archive.size);
    let mut tar = tar::Archive::new(zstd::Decoder::new(File::open(file.path()).unwrap()).unwrap());
    let names = tar
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned());
    Ok((archive, names.collect()))
}

fn selection(context: &str, dockerfile: Option<&str>, files: &[&str]) -> Selection {
    Selection {
        context: context.to_owned(),
        dockerfile: dockerfile.map(str::to_owned),
        files: files.iter().map(|file| (*file).to_owned()).collect(),
    }
}

#[test]
fn only_what_the_build_can_use_is_packed() {
    let files = [
        ("source/Dockerfile", ""),
        ("source/.dockerignore", "target\n*.log\nDockerfile\n"),
        ("source/main.rs", ""),
        ("source/build.log", ""),
        ("source/target/huge", ""),
        ("ci/Dockerfile", ""),
        ("ci/Dockerfile.dockerignore", "main.rs\n"),
        ("ci/args.yml", ""),
        ("base/blobs/one", ""),
        ("other/secret", ""),
    ];
    let folder = tree(&files);
    fs::create_dir(folder.path().join("empty")).unwrap();
    for (selection, expected) in [
        (
            selection("source", None, &[]),
            vec!["source", "source/main.rs", "source/Dockerfile", "source/.dockerignore"],
        ),
        (
            selection("empty", Some("ci/Dockerfile"), &[]),
            vec!["empty", "ci/Dockerfile", "ci/Dockerfile.dockerignore"],
        ),
        (
            selection("./source/", Some("ci/Dockerfile"), &["ci/args.yml", "base"]),
            vec![
                "source",
                "source/.dockerignore",
                "source/Dockerfile",
                "source/build.log",
                "source/target",
                "source/target/huge",
                "ci/Dockerfile",
                "ci/Dockerfile.dockerignore",
                "ci/args.yml",
                "base",
                "base/blobs",
                "base/blobs/one",
            ],
        ),
    ] {
        let (mut names, mut expected) = (packed(folder.path(), &selection).unwrap().1, expected);
        for name in &mut names {
            *name = name.trim_end_matches('/').to_owned();
        }
        names.sort();
        expected.sort_unstable();
        assert_eq!(names, expected, "{selection:?}");
    }
}

#[test]
fn a_link_to_a_folder_is_a_context_and_an_image_too() {
    let folder =
        tree(&[("real/Dockerfile", ""), ("real/sub/main.rs", ""), ("layout/oci-layout", "")]);
    symlink("real", folder.path().join("link")).unwrap();
    symlink("layout", folder.path().join("base")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    pack(folder.path(), &selection("link", None, &["base"]), file.reopen().unwrap()).unwrap();
    let root = tempfile::tempdir().unwrap();
    unpack(file.path(), root.path()).unwrap();
    for path in ["link/Dockerfile", "link/sub/main.rs", "base/oci-layout"] {
        assert!(root.path().join(path).is_file(), "{path}");
    }
}

#[test]
fn modes_links_and_strange_names_are_kept_and_sockets_passed_over() {
    let folder = tree(&[("Dockerfile", ""), ("run.sh", ""), ("a b", ""), ("new\nline", "")]);
    let root = folder.path();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    fs::write(root.join(std::ffi::OsString::from_vec(b"\xff\xfe".to_vec())), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let archive = pack(root, &selection(".", None, &[]), file.reopen().unwrap()).unwrap();
    assert_eq!((archive.entries, archive.left_out), (7, 1));
    let mut tar = tar::Archive::new(zstd::Decoder::new(File::open(file.path()).unwrap()).unwrap());
    let mut seen = 0;
    for entry in tar.entries().unwrap() {
        let entry = entry.unwrap();
        match entry.path_bytes().as_ref() {
            b"run.sh" => assert_eq!(entry.header().mode().unwrap() & 0o7777, 0o4751),
            b"absolute" => {
                assert_eq!(entry.link_name_bytes().unwrap().as_ref(), b"/etc/passwd");
            }
            b"dangling" => assert_eq!(entry.link_name_bytes().unwrap().as_ref(), b"nowhere"),
            b"\xff\xfe" | b"new\nline" | b"a b" => {}
            _ => continue,
        }
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
    let folder = tree(&[("Dockerfile", ""), ("kept", "")]);
    for name in [".dockerignore", "Dockerfile.dockerignore"] {
        assert!(
            std::process::Command::new("mkfifo")
                .arg(folder.path().join(name))
                .status()
                .unwrap()
                .success()
        );
    }
    let (archive, mut names) =
        packed(folder.path(), &selection(".", None, &[".dockerignore"])).unwrap();
    names.sort();
    assert_eq!((names, archive.left_out), (vec!["Dockerfile".to_owned(), "kept".to_owned()], 2));
}

#[test]
fn a_file_that_grows_is_packed_with_its_length_and_one_that_shrinks_is_named() {
    let folder = tree(&[("log", "four")]);
    let path = folder.path().join("log");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    append_file(&mut builder, Path::new("grown"), &metadata, &b"four and more"[..]).unwrap();
    let error = append_file(
        &mut tar::Builder::new(Vec::new()),
        Path::new("a/shrunk"),
        &metadata,
        &b"fo"[..],
    )
    .unwrap_err();
    assert!(error.to_string().starts_with("a/shrunk: its length changed"), "{error}");
    append_open(&mut builder, Path::new("open"), File::open(&path).unwrap()).unwrap();
    // What the tar crate makes of it.
    builder.append_path_with_name(&path, "tars").unwrap();
    let bytes = builder.into_inner().unwrap();
    let mut names = Vec::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        assert_eq!(header.mode().unwrap() & 0o7777, 0o4751);
        assert_eq!(header.mtime().unwrap(), metadata.mtime().unsigned_abs());
        assert_eq!(
            (header.uid().unwrap(), header.gid().unwrap()),
            (metadata.uid().into(), metadata.gid().into())
        );
        names.push(entry.path().unwrap().display().to_string());
        assert_eq!(std::io::read_to_string(&mut entry).unwrap(), "four");
    }
    assert_eq!(names, ["grown", "open", "tars"]);
    let header_of = |name: &str| {
        let mut header = tar::Archive::new(bytes.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().header().clone())
            .find(|header| *header.path_bytes() == *name.as_bytes())
            .unwrap();
        header.set_path("same").unwrap();
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    assert!(header_of("open") == header_of("tars"), "the same header");
}

#[test]
fn parents_of_files_that_an_exception_takes_back_are_packed() {
    let folder = tree(&[
        ("Dockerfile", ""),
        (".dockerignore", "*\n!a/b/kept\n"),
        ("a/b/kept", ""),
        ("a/other", ""),
        ("c/other", ""),
    ]);
    let (_, mut names) = packed(folder.path(), &selection(".", None, &[])).unwrap();
    names.sort();
    assert_eq!(names, [".dockerignore", "Dockerfile", "a", "a/b", "a/b/kept"]);
}

#[test]
fn a_pattern_that_is_malformed_in_a_class_is_named_with_its_line() {
    let folder = tree(&[("Dockerfile", ""), (".dockerignore", "# classes\n\n[b-a]\n")]);
    let error = packed(folder.path(), &selection(".", None, &[])).unwrap_err().to_string();
    assert!(error.starts_with(".dockerignore: line 3: invalid pattern \"[b-a]\""), "{error}");
}

#[test]
fn an_unreadable_directory_fails_unless_it_is_excluded() {
    let folder = tree(&[("Dockerfile", ""), ("closed/file", "")]);
    let closed = folder.path().join("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    // Permissions do not bind root.
    let is_bound = fs::read_dir(&closed).is_err();
    let all = packed(folder.path(), &selection(".", None, &[]));
    fs::write(folder.path().join(".dockerignore"), "closed\n").unwrap();
    let excluded = packed(folder.path(), &selection(".", None, &[]));
    fs::write(folder.path().join(".dockerignore"), "closed\n!*/file\n").unwrap();
    let looked_into = packed(folder.path(), &selection(".", None, &[]));
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(excluded.is_ok() && looked_into.is_ok());
    assert_eq!(matches!(all, Err(PackError::Read { .. })), is_bound);
}

#[test]
fn an_unreadable_ignore_file_is_an_error() {
    let folder = tree(&[("Dockerfile", ""), ("secret", "")]);
    symlink(".dockerignore", folder.path().join(".dockerignore")).unwrap();
    let error = packed(folder.path(), &selection(".", None, &[])).unwrap_err();
    assert!(matches!(&error, PackError::Read { path, .. } if path == ".dockerignore"), "{error}");
}

#[test]
fn holes_are_left_out() {
    let folder = tree(&[("Dockerfile", "")]);
    File::create(folder.path().join("sparse")).unwrap().set_len(64 << 20).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    pack(folder.path(), &selection(".", None, &[]), file.reopen().unwrap()).unwrap();
    let root = tempfile::tempdir().unwrap();
    unpack(file.path(), root.path()).unwrap();
    assert_eq!(fs::metadata(root.path().join("sparse")).unwrap().len(), 64 << 20);
}

#[test]
fn paths_out_of_the_folder_and_bad_patterns_are_named() {
    let folder =
        tree(&[("Dockerfile", ""), ("bad/Dockerfile", ""), ("bad/.dockerignore", "a\n[b\n")]);
    fs::create_dir(folder.path().join("empty")).unwrap();
    for (selection, words) in [
        (selection("..", None, &[]), "\"..\" is outside"),
        (selection("/etc", None, &[]), "\"/etc\" is outside"),
        (selection(".", Some("a/../../x"), &[]), "\"a/../../x\" is outside"),
        (selection("bad", None, &[]), "bad/.dockerignore: line 2: invalid pattern \"[b\""),
        (
            selection("empty", None, &[]),
            "there is no Dockerfile: \"empty/Dockerfile\" is not a file",
        ),
        (selection("emtpy", None, &[]), "CONTEXT: there is no folder \"emtpy\""),
        (selection("Dockerfile", None, &[]), "CONTEXT: there is no folder \"Dockerfile\""),
        (
            selection("empty", Some("x/D"), &[]),
            "there is no Dockerfile: neither \"x/D\" nor \"empty/x/D\" is a file of the task's folder",
        ),
    ] {
        let error = packed(folder.path(), &selection).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    }
}
