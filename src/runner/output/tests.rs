use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use super::{
    FailureReason, ImageForm, OutputInstructions, Staging, make_folder, write_rootfs, write_tar,
};
use crate::api::OutputFormat;

fn output(root: &Path, path: &str) -> OutputInstructions {
    OutputInstructions { root: root.to_owned(), path: path.to_owned(), download_seconds: None }
}

fn unpacked_oci() -> ImageForm {
    ImageForm { format: OutputFormat::Oci, unpack_rootfs: true, ..ImageForm::default() }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What a build of a stage leaves in its staging folder.
fn fill(folder: &Path, word: &str) {
    write_tar(folder, word.as_bytes()).unwrap();
    fs::write(folder.join("digest"), word).unwrap();
    fs::create_dir(folder.join("image")).unwrap();
    fs::write(folder.join("image/oci-layout"), word).unwrap();
    fs::create_dir(folder.join("rootfs")).unwrap();
    fs::write(folder.join("rootfs").join(word), word).unwrap();
    fs::set_permissions(folder.join("rootfs"), Permissions::from_mode(0o555)).unwrap();
    fs::write(folder.join("metadata.json"), word).unwrap();
}

#[test]
fn what_is_not_published_leaves_nothing_and_harms_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("a/b");
    fs::create_dir_all(folder.join(".ocibuild-partial-team-app/targets/of-a-killed-attempt"))
        .unwrap();
    fs::write(folder.join("image.tar"), "of the generation before").unwrap();
    let staging =
        Staging::create(&output(root.path(), "a/b"), "team/app", &unpacked_oci(), &[]).unwrap();
    fill(&staging.target(None).unwrap().0, "new");
    fill(&staging.target(Some("test")).unwrap().0, "new");
    drop(staging);
    assert_eq!(names(&folder), ["image.tar"]);
    assert_eq!(fs::read_to_string(folder.join("image.tar")).unwrap(), "of the generation before");
}

#[test]
fn a_build_replaces_what_the_build_before_it_left_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("mine"), "of the user").unwrap();
    for word in ["first", "second"] {
        let staging =
            Staging::create(&output(root.path(), ""), "team/app", &unpacked_oci(), &[]).unwrap();
        fill(&staging.target(None).unwrap().0, word);
        let (folder, shown) = staging.target(Some("test")).unwrap();
        assert_eq!(shown, Path::new("targets/test"));
        fill(&folder, word);
        staging.publish().unwrap();
        assert_eq!(
            names(root.path()),
            ["digest", "image", "image.tar", "metadata.json", "mine", "rootfs", "targets"]
        );
        for folder in [root.path().to_owned(), root.path().join("targets/test")] {
            assert_eq!(names(&folder.join("rootfs")), [word]);
            assert_eq!(fs::read_to_string(folder.join("image.tar")).unwrap(), word);
            assert_eq!(fs::read_to_string(folder.join("image/oci-layout")).unwrap(), word);
        }
    }
    // A build of another form leaves no stale folders of the one before.
    let staging =
        Staging::create(&output(root.path(), ""), "team/app", &ImageForm::default(), &[]).unwrap();
    write_tar(&staging.target(None).unwrap().0, &b"third"[..]).unwrap();
    staging.publish().unwrap();
    assert_eq!(names(root.path()), ["digest", "image.tar", "mine", "targets"]);
}

#[test]
fn a_folder_that_no_build_has_made_is_not_replaced() {
    for name in ["image", "rootfs"] {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(name)).unwrap();
        fs::write(root.path().join(name).join("photo"), "mine").unwrap();
        let refused = Staging::create(&output(root.path(), ""), "team/app", &unpacked_oci(), &[])
            .err()
            .unwrap();
        assert_eq!(refused.reason, FailureReason::OutputInvalid);
        assert!(refused.message.contains(name), "{}", refused.message);
        assert_eq!(names(root.path()), [name]);
    }
}

#[test]
fn what_is_in_the_way_is_found_before_anything_is_built() {
    for (folders, files, stages, words) in [
        (vec!["image.tar"], vec![], vec![], "a folder \"image.tar\""),
        (vec!["digest"], vec![], vec![], "a folder \"digest\""),
        (vec![], vec!["targets"], vec!["test"], "\"targets\", which is no folder"),
        (
            vec!["targets/test"],
            vec!["targets/test/precious"],
            vec!["test"],
            "\"targets/test\", which no build has made",
        ),
    ] {
        let root = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for file in files {
            fs::write(root.path().join(file), "mine").unwrap();
        }
        let stages: Vec<_> = stages.into_iter().map(str::to_owned).collect();
        let before = names(root.path());
        let refused =
            Staging::create(&output(root.path(), ""), "team/app", &unpacked_oci(), &stages)
                .err()
                .unwrap();
        assert_eq!(refused.reason, FailureReason::OutputInvalid);
        assert!(refused.message.contains(words), "{words}: {}", refused.message);
        assert_eq!(names(root.path()), before);
    }
}

#[test]
fn a_build_that_cannot_be_put_in_place_leaves_the_one_before_it() {
    let root = tempfile::tempdir().unwrap();
    for word in ["first", "second"] {
        let staging = Staging::create(
            &output(root.path(), ""),
            "team/app",
            &unpacked_oci(),
            &["test".to_owned()],
        )
        .unwrap();
        fill(&staging.target(None).unwrap().0, word);
        fill(&staging.target(Some("test")).unwrap().0, word);
        if word == "second" {
            // Somebody is quicker.
            fs::remove_dir_all(root.path().join("targets")).unwrap();
            fs::write(root.path().join("targets"), "mine").unwrap();
            assert!(staging.publish().is_err());
        } else {
            staging.publish().unwrap();
        }
    }
    assert_eq!(
        names(root.path()),
        ["digest", "image", "image.tar", "metadata.json", "rootfs", "targets"]
    );
    for file in ["image/oci-layout", "rootfs/first", "metadata.json", "image.tar", "digest"] {
        assert_eq!(fs::read_to_string(root.path().join(file)).unwrap(), "first", "{file}");
    }
}

#[test]
fn links_on_the_volume_lead_nowhere_outside_it() {
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "").unwrap();
    symlink(outside.path(), root.path().join("out")).unwrap();
    assert!(
        make_folder(root.path(), "out/x").is_err() && make_folder(root.path(), "../x").is_err()
    );
    symlink("/nowhere/at/all", root.path().join("dangling")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    for path in ["out/x", "out", "dangling", "dangling/x", "file", "file/x"] {
        let refused =
            Staging::create(&output(root.path(), path), "team/app", &ImageForm::default(), &[])
                .err()
                .expect(path);
        assert_eq!(refused.reason, FailureReason::OutputInvalid, "{path}: {}", refused.message);
    }
    symlink(outside.path(), root.path().join(".ocibuild-partial-team-app")).unwrap();
    Staging::create(&output(root.path(), ""), "team/app", &ImageForm::default(), &[]).unwrap();
    assert_eq!(names(outside.path()), ["kept"]);
}

#[test]
fn a_rootfs_keeps_modes_and_owners_and_leaves_devices_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = |path: &str, kind: tar::EntryType, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(7);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    };
    append("closed", tar::EntryType::Directory, 0o555, b"");
    append("closed/sudo", tar::EntryType::Regular, 0o4755, b"x");
    append("null", tar::EntryType::Char, 0o666, b"");
    append("pipe", tar::EntryType::Fifo, 0o666, b"");
    assert_eq!(write_rootfs(folder.path(), builder.into_inner().unwrap().as_slice()).unwrap(), 2);
    let root = folder.path().join("rootfs");
    assert_eq!(names(&root), ["closed"]);
    assert_eq!(
        fs::metadata(root.join("closed/sudo")).unwrap().permissions().mode() & 0o7777,
        0o4755
    );
    assert_eq!(fs::metadata(root.join("closed")).unwrap().permissions().mode() & 0o7777, 0o555);
    // Only root can give files away.
    let user = rustix::process::geteuid();
    let owner = if user.is_root() { 7 } else { user.as_raw() };
    assert_eq!(fs::metadata(root.join("closed/sudo")).unwrap().uid(), owner);
}
