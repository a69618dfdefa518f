//! Entries that cannot be read.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::sync::Arc;

use tonic::Code;

use super::super::{Directory, Selection, SendError, Sent};
use super::receiver::{receive, tree, unprivileged};

/// Sets a mode that the user who reads the entry cannot get around.
fn lock(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(path, Some(0), Some(0)).unwrap();
    }
}

/// Lets the directory be removed.
fn unlock(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// Receives without root's rights, and requests all files but those of the given name.
fn receive_unprivileged(
    root: &Path,
    selection: Selection,
    unwanted: &str,
) -> (Result<Sent, SendError>, Vec<String>, Option<tonic::Status>) {
    let directory = Arc::new(Directory::open(root).unwrap());
    let received = receive(directory, selection, |stat| !stat.path.ends_with(unwanted.as_bytes()));
    let runtime = unprivileged();
    let (outcome, received, status) = runtime.block_on(received);
    (outcome, received.paths(), status)
}

fn assert_unreadable(outcome: Result<Sent, SendError>, expected: &str, expected_mode: u32) {
    match outcome.unwrap_err() {
        SendError::Unreadable { path, mode, source, .. } => {
            assert_eq!((path.to_str().unwrap(), mode), (expected, expected_mode));
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
        }
        error => panic!("{error}"),
    }
}

#[test]
fn an_unreadable_file_fails_only_if_it_is_requested() {
    let root = tree(&[("dir/locked", "x"), ("open", "y")]);
    lock(&root.path().join("dir/locked"), 0);
    let (outcome, _, status) = receive_unprivileged(root.path(), Selection::default(), "none");
    let status = status.unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
    let owner = root.path().join("dir/locked").metadata().unwrap();
    let expected = format!(
        "cannot read \"dir/locked\" (mode 0000, owner {}:{}): Permission denied (os error 13)",
        owner.uid(),
        owner.gid()
    );
    assert_eq!(status.message(), expected);
    assert_unreadable(outcome, "dir/locked", 0);

    let (outcome, paths, _) = receive_unprivileged(root.path(), Selection::default(), "locked");
    assert_eq!(outcome.unwrap().files, 1);
    assert_eq!(paths, ["dir", "dir/locked", "open"]);
}

#[test]
fn an_unreadable_directory_fails_unless_no_pattern_reaches_it() {
    let root = tree(&[("locked/file", "x"), ("open", "y")]);
    lock(&root.path().join("locked"), 0);
    let (outcome, _, _) = receive_unprivileged(root.path(), Selection::default(), "none");
    assert_unreadable(outcome, "locked", 0);

    let reached = Selection { includes: vec![b"locked/file".to_vec()], ..Selection::default() };
    let (outcome, _, _) = receive_unprivileged(root.path(), reached, "none");
    assert_unreadable(outcome, "locked", 0);

    let excluded = Selection { excludes: vec![b"locked".to_vec()], ..Selection::default() };
    let (outcome, paths, _) = receive_unprivileged(root.path(), excluded, "none");
    outcome.unwrap();
    assert_eq!(paths, ["open"]);

    let other = Selection { includes: vec![b"open".to_vec()], ..Selection::default() };
    let (outcome, paths, _) = receive_unprivileged(root.path(), other, "none");
    outcome.unwrap();
    assert_eq!(paths, ["open"]);
    unlock(&root.path().join("locked"));
}

#[test]
fn metadata_in_a_directory_without_search_permission_fail() {
    let root = tree(&[("listed/file", "x")]);
    lock(&root.path().join("listed"), 0o444);
    let (outcome, _, _) = receive_unprivileged(root.path(), Selection::default(), "none");
    let error = outcome.unwrap_err();
    assert!(matches!(&error, SendError::Inaccessible { path, .. } if path.ends_with("file")));
    assert_eq!(error.status().code(), Code::PermissionDenied);

    let excluded = Selection { excludes: vec![b"*/file".to_vec()], ..Selection::default() };
    let (outcome, paths, _) = receive_unprivileged(root.path(), excluded, "none");
    outcome.unwrap();
    assert_eq!(paths, ["listed"]);
    unlock(&root.path().join("listed"));
}

#[test]
fn unreadable_extended_attributes_fail() {
    let root = tree(&[("file", "x")]);
    let path = root.path().join("file");
    rustix::fs::setxattr(&path, "user.key", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    lock(&path, 0);
    let (outcome, _, _) = receive_unprivileged(root.path(), Selection::default(), "file");
    assert_unreadable(outcome, "file", 0);
}
