//! Patterns and followed paths.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::{Directory, Selection, SendError};
use super::receiver::{receive, receive_all, tree};

fn patterns(patterns: &[&str]) -> Vec<Vec<u8>> {
    patterns.iter().map(|pattern| pattern.as_bytes().to_vec()).collect()
}

#[tokio::test]
async fn parents_are_announced_before_the_first_selected_entry() {
    let root = tree(&[("a/b/keep.txt", "k"), ("a/b/other", ""), ("a/c/none", ""), ("z", "")]);
    let selection = Selection { includes: patterns(&["**/*.txt"]), ..Selection::default() };
    let (_, received) = receive_all(root.path(), selection).await;
    assert_eq!(received.paths(), ["a", "a/b", "a/b/keep.txt"]);
    assert_eq!(received.content("a/b/keep.txt"), b"k");
}

#[tokio::test]
async fn excluded_entries_are_not_announced() {
    let root = tree(&[("big/x", ""), ("big/keep", ""), ("a.log", ""), ("b", "")]);
    let excludes = patterns(&["*.log", "big", "!big/keep"]);
    let selection = Selection { excludes, ..Selection::default() };
    let (_, received) = receive_all(root.path(), selection).await;
    assert_eq!(received.paths(), ["b", "big", "big/keep"]);
}

#[tokio::test]
async fn followed_paths_include_the_targets_of_symlinks() {
    let root = tree(&[("real/file", "x"), ("real/other", ""), ("more", ""), ("wild1", "")]);
    symlink("real", root.path().join("alias")).unwrap();
    symlink("/more", root.path().join("wild2")).unwrap();
    symlink("/etc", root.path().join("outside")).unwrap();
    let follow_paths = patterns(&["alias/file", "wild*", "outside/passwd", "../etc", "absent/x"]);
    for has_openat2 in [true, false] {
        let directory = Directory::open(root.path()).unwrap();
        directory.has_openat2.store(has_openat2, Ordering::Relaxed);
        let selection = Selection { follow_paths: follow_paths.clone(), ..Selection::default() };
        let (outcome, received, _) = receive(Arc::new(directory), selection, |_| true).await;
        outcome.unwrap();
        assert_eq!(
            received.paths(),
            ["alias", "more", "outside", "real", "real/file", "wild1", "wild2"]
        );
    }
}

#[tokio::test]
async fn malformed_patterns_fail_the_transfer() {
    let root = tree(&[("a", "")]);
    let directory = Arc::new(Directory::open(root.path()).unwrap());
    let selection = Selection { excludes: patterns(&["[a"]), ..Selection::default() };
    let (outcome, _, status) = receive(directory, selection, |_| true).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, SendError::Pattern(_)), "{error}");
    assert_eq!(status.unwrap().code(), tonic::Code::InvalidArgument);
}
