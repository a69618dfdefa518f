//! A directory that changes during the transfer.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use rustix::fs::{CWD, Mode, RenameFlags, renameat, renameat_with};
use tonic::Code;

use super::super::{Directory, Selection, SendError};
use super::receiver::{connect, receive, request, tree};

/// Applies a change after a file of 100 bytes was announced, and returns the error.
async fn change(apply: impl Fn(&Path)) -> SendError {
    for has_openat2 in [true, false] {
        let root = tree(&[("dir/file", &"x".repeat(100))]);
        let path = root.path().join("dir/file");
        let directory = Directory::open(root.path()).unwrap();
        directory.has_openat2.store(has_openat2, Ordering::Relaxed);
        let (outcome, received, status) =
            receive(Arc::new(directory), Selection::default(), |stat| {
                if stat.path == b"dir/file" {
                    apply(&path);
                }
                true
            })
            .await;
        let error = outcome.unwrap_err();
        assert!(received.contents.is_empty(), "no content is sent");
        assert_eq!(status.unwrap().message(), error.to_string());
        assert_eq!(error.status().code(), Code::Aborted, "{error}");
        assert!(error.to_string().contains("\"dir/file\""), "{error}");
        if !has_openat2 {
            return error;
        }
    }
    unreachable!()
}

fn keep_mtime(path: &Path, write: impl Fn(&Path)) {
    let mtime = path.metadata().unwrap().modified().unwrap();
    write(path);
    File::open(path).unwrap().set_modified(mtime).unwrap();
}

#[tokio::test]
async fn a_shorter_or_longer_file_fails() {
    for length in [99, 101, 0] {
        let error = change(|path| keep_mtime(path, |it| fs::write(it, vec![1; length]).unwrap()));
        match error.await {
            SendError::LengthChanged { expected: 100, found, .. } => {
                assert_eq!(found, length as u64);
            }
            error => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_modified_file_fails() {
    let later = SystemTime::now() + Duration::from_secs(5);
    let error = change(|path| File::open(path).unwrap().set_modified(later).unwrap()).await;
    assert!(matches!(error, SendError::Modified { .. }), "{error}");
}

#[tokio::test]
async fn a_removed_file_fails() {
    let error = change(|path| fs::remove_file(path).unwrap()).await;
    assert!(matches!(error, SendError::Removed { .. }), "{error}");
}

#[tokio::test]
async fn a_fifo_directory_or_symlink_in_place_of_the_file_fails() {
    let replace: [fn(&Path); 4] = [
        |path| rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o644)).unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| symlink("/etc/passwd", path).unwrap(),
        |path| symlink("sibling", path).unwrap(),
    ];
    for replace in replace {
        let error = change(|path| {
            fs::remove_file(path).unwrap();
            replace(path);
        });
        let error = error.await;
        assert!(matches!(error, SendError::Replaced { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_symlink_in_place_of_the_parent_directory_fails() {
    let error = change(|path| {
        let directory = path.parent().unwrap();
        let moved = directory.with_file_name("moved");
        renameat(CWD, directory, CWD, &moved).unwrap();
        symlink("moved", directory).unwrap();
    });
    let error = error.await;
    assert!(matches!(error, SendError::Replaced { .. }), "{error}");
}

#[tokio::test]
async fn a_large_file_that_is_cut_while_it_is_sent_fails() {
    let root = tree(&[("large", &"x".repeat(16 << 20))]);
    let path = root.path().join("large");
    let directory = Arc::new(Directory::open(root.path()).unwrap());
    let mut connection = connect(directory, Selection::default());
    while connection.packets.next().await.unwrap().unwrap().stat.is_some() {}
    connection.requests.send(Ok(request(0))).await.unwrap();
    // The receiver does not read: the sender waits with most of the file unread.
    tokio::time::sleep(Duration::from_millis(200)).await;
    File::options().write(true).open(&path).unwrap().set_len(8 << 20).unwrap();
    while connection.packets.next().await.is_some() {}
    match connection.outcome().await.unwrap_err() {
        SendError::LengthChanged { expected, found, .. } => {
            assert_eq!((expected, found), (16 << 20, 8 << 20));
        }
        error => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn content_outside_of_the_directory_is_never_sent() {
    let outside = tree(&[]);
    let root = tree(&[]);
    let inside = root.path().join("dir");
    fs::create_dir(&inside).unwrap();
    for index in 0..40 {
        fs::write(inside.join(format!("file{index}")), "inner").unwrap();
        fs::copy(inside.join(format!("file{index}")), outside.path().join(format!("file{index}")))
            .unwrap();
        fs::write(outside.path().join(format!("file{index}")), "outer").unwrap();
        let mtime = inside.join(format!("file{index}")).metadata().unwrap().modified().unwrap();
        let file = File::open(outside.path().join(format!("file{index}"))).unwrap();
        file.set_modified(mtime).unwrap();
    }
    let link = root.path().join("link");
    symlink(outside.path(), &link).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let is_done = Arc::clone(&is_done);
        move || {
            let mut swaps = 0_u32;
            while !is_done.load(Ordering::Relaxed) {
                renameat_with(CWD, &link, CWD, &inside, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        }
    });
    let (mut complete, mut failed) = (0, 0);
    for round in 0..200 {
        let directory = Directory::open(root.path()).unwrap();
        directory.has_openat2.store(round % 2 == 0, Ordering::Relaxed);
        let (outcome, received, _) =
            receive(Arc::new(directory), Selection::default(), |_| true).await;
        assert!(received.contents.values().all(|content| content != b"outer"));
        if outcome.is_ok() { complete += 1 } else { failed += 1 }
    }
    is_done.store(true, Ordering::Relaxed);
    let swaps = swapper.join().unwrap();
    assert!(swaps > 200 && complete + failed == 200, "{swaps} swaps, {complete} transfers");
}
