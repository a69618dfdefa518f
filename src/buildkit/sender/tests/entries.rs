//! Metadata of each type of entry.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

use super::super::metadata::go_mode;
use super::super::{Directory, Override, Selection, Sent};
use super::receiver::{mtime, path_of, receive, receive_all, tree};

#[tokio::test]
async fn modes_times_and_owners_are_sent() {
    let root = tree(&[("plain", "abc"), ("set-id", ""), ("dir/", ""), ("dir/inner", "x")]);
    let path = |name: &str| root.path().join(name);
    std::fs::set_permissions(path("plain"), Permissions::from_mode(0o640)).unwrap();
    std::fs::set_permissions(path("set-id"), Permissions::from_mode(0o6755)).unwrap();
    std::fs::set_permissions(path("dir"), Permissions::from_mode(0o1777)).unwrap();
    let (sent, received) = receive_all(root.path(), Selection::default()).await;

    assert_eq!(received.paths(), ["dir", "dir/inner", "plain", "set-id"]);
    assert_eq!(sent, Sent { entries: 4, files: 3, bytes: 4 });
    let stat = received.stat("plain");
    assert_eq!((stat.mode, stat.size), (0o640, 3));
    assert_eq!(stat.mod_time, mtime(&path("plain")));
    assert_eq!(received.content("plain"), b"abc");
    let set_id = received.stat("set-id");
    assert_eq!(set_id.mode, 0o755 | go_mode::SET_UID | go_mode::SET_GID);
    let directory = received.stat("dir");
    assert_eq!(directory.mode, 0o777 | go_mode::DIRECTORY | go_mode::STICKY);
    assert_eq!((directory.size, directory.mod_time), (0, mtime(&path("dir"))));
    assert!(received.stats.iter().all(|stat| (stat.uid, stat.gid) == (0, 0)));
}

#[tokio::test]
async fn special_files_are_announced_and_sockets_are_empty_files() {
    let root = tree(&[]);
    let path = |name: &str| root.path().join(name);
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, path("fifo"), FileType::Fifo, mode, 0).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    symlink("../any where", path("symlink")).unwrap();
    let (_, received) = receive_all(root.path(), Selection::default()).await;

    assert_eq!(received.stat("fifo").mode, 0o600 | go_mode::NAMED_PIPE);
    assert_eq!(received.stat("socket").mode & !0o777, 0);
    assert_eq!(received.content("socket"), b"");
    let symlink = received.stat("symlink");
    assert_eq!(symlink.mode, 0o777 | go_mode::SYMLINK);
    assert_eq!((symlink.linkname.as_slice(), symlink.size), (&b"../any where"[..], 12));
}

/// Only root can create devices.
#[tokio::test]
async fn devices_are_announced_with_their_numbers() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let root = tree(&[]);
    let path = |name: &str| root.path().join(name);
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, path("block"), FileType::BlockDevice, mode, makedev(7, 300)).unwrap();
    mknodat(CWD, path("char"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    let (_, received) = receive_all(root.path(), Selection::default()).await;

    let block = received.stat("block");
    assert_eq!(block.mode, 0o600 | go_mode::DEVICE);
    assert_eq!((block.devmajor, block.devminor), (7, 300));
    let char = received.stat("char");
    assert_eq!(char.mode, 0o600 | go_mode::DEVICE | go_mode::CHARACTER_DEVICE);
    assert_eq!((char.devmajor, char.devminor), (1, 3));
}

#[tokio::test]
async fn later_names_of_an_inode_are_links_to_the_first_sent_one() {
    let root = tree(&[("a/first", "content")]);
    let path = |name: &str| root.path().join(name);
    std::fs::hard_link(path("a/first"), path("b")).unwrap();
    std::fs::hard_link(path("a/first"), path("c")).unwrap();
    symlink("x", path("s1")).unwrap();
    std::fs::hard_link(path("s1"), path("s2")).unwrap();

    let (sent, received) = receive_all(root.path(), Selection::default()).await;
    assert_eq!(received.stat("a/first").linkname, b"");
    assert_eq!(received.stat("b").linkname, b"a/first");
    assert_eq!(received.stat("c").linkname, b"a/first");
    assert_eq!(received.stat("c").size, 7, "fsutil sends the size of links too");
    assert_eq!(received.stat("s2").linkname, b"x", "a symlink keeps its target");
    assert_eq!(sent.files, 1);

    let selection = Selection { excludes: vec![b"a".to_vec()], ..Selection::default() };
    let (_, received) = receive_all(root.path(), selection).await;
    assert_eq!(received.stat("b").linkname, b"");
    assert_eq!(received.stat("c").linkname, b"b");
    assert_eq!(received.content("b"), b"content");
}

#[tokio::test]
async fn extended_attributes_are_sent() {
    let root = tree(&[("file", ""), ("dir/", ""), ("none", "")]);
    let set = |name: &str, key: &str, value: &[u8]| {
        setxattr(root.path().join(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("file", "user.one", b"\x00\xff");
    set("file", "user.empty", b"");
    set("file", "user.com.apple", b"kept");
    set("dir", "user.two", &[7; 2000]);
    let (_, received) = receive_all(root.path(), Selection::default()).await;

    let user = |name: &str| {
        let xattrs = received.stat(name).xattrs.clone();
        xattrs.into_iter().filter(|(key, _)| key.starts_with("user.")).collect::<BTreeMap<_, _>>()
    };
    let of = |entries: &[(&str, &[u8])]| {
        entries.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect()
    };
    let expected: BTreeMap<_, _> =
        of(&[("user.one", b"\x00\xff"), ("user.empty", b""), ("user.com.apple", b"kept")]);
    assert_eq!(user("file"), expected);
    assert_eq!(user("dir"), of(&[("user.two", &[7; 2000])]));
    assert_eq!(user("none"), BTreeMap::new());
}

#[tokio::test]
async fn names_and_targets_need_not_be_utf8() {
    let root = tree(&[]);
    let directory = root.path().join(path_of(b"\xff"));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join(path_of(b"\xc3 \n")), "x").unwrap();
    symlink(path_of(b"\xfe"), directory.join("link")).unwrap();
    let (_, received) = receive_all(root.path(), Selection::default()).await;

    let paths: Vec<&[u8]> = received.stats.iter().map(|stat| stat.path.as_slice()).collect();
    assert_eq!(paths, [&b"\xff"[..], b"\xff/link", b"\xff/\xc3 \n"]);
    assert_eq!(received.stats[1].linkname, b"\xfe");
    assert_eq!(received.contents[&2], b"x");
    assert_eq!(directory.file_name().unwrap().as_bytes(), b"\xff");
}

#[tokio::test]
async fn overrides_replace_mode_and_owner() {
    let root = tree(&[("dir/file", "x"), ("dir/other", "y")]);
    let overrides = BTreeMap::from([
        (b"dir".to_vec(), Override { mode: 0o2000, uid: 1, gid: 2 }),
        (b"dir/file".to_vec(), Override { mode: 0, uid: 1000, gid: 1001 }),
    ]);
    let directory = Directory::open(root.path()).unwrap().with_overrides(overrides);
    let (outcome, received, _) = receive(Arc::new(directory), Selection::default(), |_| true).await;
    outcome.unwrap();

    let directory = received.stat("dir");
    assert_eq!(directory.mode, go_mode::DIRECTORY | go_mode::SET_GID);
    assert_eq!((directory.uid, directory.gid), (1, 2));
    let file = received.stat("dir/file");
    assert_eq!((file.mode, file.uid, file.gid), (0, 1000, 1001));
    assert_eq!(received.content("dir/file"), b"x");
    let other = received.stat("dir/other");
    assert_ne!(other.mode, 0);
    assert_eq!((other.uid, other.gid), (0, 0));
}
