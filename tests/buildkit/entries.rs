//! Every kind of entry of a context reaches the image with all its metadata.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    time::{Duration, SystemTime},
};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use tar::EntryType;

use crate::{
    build::{Build, build_tree},
    context::{Context, noise},
    daemon::connect,
    image::Entry,
};

const COPY_ALL: &str = "FROM scratch\nCOPY . /\n";

fn set_mode(context: &Context, name: &str, mode: u32) {
    fs::set_permissions(context.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_directories_and_their_modes_reach_the_image() {
    let context = Context::new(COPY_ALL);
    context.write("folder/file", "hello");
    context.write("folder/empty", "");
    context.write("folder/deep/er/file", "deep");
    fs::create_dir(context.join("hollow")).unwrap();
    for (name, mode) in [
        ("folder/file", 0o640),
        ("folder/empty", 0o000),
        ("folder/deep/er/file", 0o6755),
        ("folder/deep/er", 0o2750),
        ("folder/deep", 0o1777),
        ("hollow", 0o700),
    ] {
        set_mode(&context, name, mode);
    }
    let tree = build_tree(&connect().await, context.path()).await;
    let found = tree.iter().filter(|(name, _)| name.as_slice() != b"Dockerfile");
    let found: Vec<_> = found
        .map(|(name, Entry { kind, mode, owner, content, .. })| {
            (std::str::from_utf8(name).unwrap(), *kind, *mode, *owner, content.as_slice())
        })
        .collect();
    let (directory, file, root) = (EntryType::Directory, EntryType::Regular, (0, 0));
    assert_eq!(
        found,
        [
            ("folder", directory, 0o755, root, &b""[..]),
            ("folder/deep", directory, 0o1777, root, b""),
            ("folder/deep/er", directory, 0o2750, root, b""),
            ("folder/deep/er/file", file, 0o6755, root, b"deep"),
            ("folder/empty", file, 0o000, root, b""),
            ("folder/file", file, 0o640, root, b"hello"),
            ("hollow", directory, 0o700, root, b""),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn symlinks_and_hard_links_reach_the_image() {
    let context = Context::new(COPY_ALL);
    context.write("first", "shared");
    fs::hard_link(context.join("first"), context.join("second")).unwrap();
    fs::create_dir(context.join("folder")).unwrap();
    fs::hard_link(context.join("first"), context.join("folder/third")).unwrap();
    symlink("../first", context.join("folder/link")).unwrap();
    symlink("/nowhere", context.join("dangling")).unwrap();
    let tree = build_tree(&connect().await, context.path()).await;
    assert_eq!(tree.text("first"), "shared");
    for name in ["second", "folder/third"] {
        let link = tree.file(name);
        assert_eq!((link.kind, link.link.as_slice()), (EntryType::Link, &b"first"[..]), "{name}");
    }
    for (name, target) in [("folder/link", "../first"), ("dangling", "/nowhere")] {
        let link = tree.file(name);
        assert_eq!((link.kind, link.link.as_slice()), (EntryType::Symlink, target.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_link_whose_first_name_is_ignored_becomes_a_file() {
    let context = Context::new(COPY_ALL);
    context.write(".dockerignore", "first\n.dockerignore\n");
    context.write("first", "shared");
    fs::hard_link(context.join("first"), context.join("second")).unwrap();
    fs::hard_link(context.join("first"), context.join("third")).unwrap();
    let tree = build_tree(&connect().await, context.path()).await;
    assert_eq!(tree.names(), ["Dockerfile", "second", "third"]);
    assert_eq!(tree.text("second"), "shared");
    assert_eq!(tree.file("third").link, b"second");
}

/// A step looks at the context itself: COPY makes every device a character device.
#[tokio::test(flavor = "multi_thread")]
async fn devices_pipes_and_sockets_reach_the_daemon() {
    let context = Context::with_shell(
        "RUN --mount=type=bind,target=/context \
         cd /context && /bin/busybox stat -c '%n: %F, %a, %t:%T' null disk pipe socket > /types\n",
    );
    let node = |name: &str, kind, device| {
        mknodat(CWD, context.join(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    };
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("disk", FileType::BlockDevice, makedev(259, 70_000));
    node("pipe", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    let tree = build_tree(&connect().await, context.path()).await;
    // BuildKit's own client sends an empty file for a socket too.
    let types = "null: character special file, 640, 1:3\n\
                 disk: block special file, 640, 103:11170\n\
                 pipe: fifo, 640, 0:0\n\
                 socket: regular empty file, 640, 0:0\n";
    assert_eq!(tree.text("types"), types);
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_devices_pipes_and_sockets_reach_the_image() {
    let context = Context::new(COPY_ALL);
    let node = |name: &str, kind, device| {
        mknodat(CWD, context.join(name), kind, Mode::from_raw_mode(0o644), device).unwrap();
    };
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("pipe", FileType::Fifo, 0);
    let _listener = UnixListener::bind(context.join("socket")).unwrap();
    let tree = build_tree(&connect().await, context.path()).await;
    let null = tree.file("null");
    assert_eq!((null.kind, null.device), (EntryType::Char, Some((1, 3))));
    assert_eq!(tree.file("pipe").kind, EntryType::Fifo);
    let socket = tree.file("socket");
    assert_eq!((socket.kind, socket.content.len()), (EntryType::Regular, 0));
}

/// File capabilities are no test: the daemon loses them when it writes the file's content, with
/// BuildKit's own client too.
#[tokio::test(flavor = "multi_thread")]
async fn extended_attributes_reach_the_image() {
    let context = Context::new(COPY_ALL);
    context.write("folder/server", "program");
    let set = |name: &str, key: &str, value: &[u8]| {
        setxattr(context.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("folder/server", "user.note", b"\x00binary\xff");
    set("folder", "user.folder", b"of a directory");
    let tree = build_tree(&connect().await, context.path()).await;
    let server = &tree.file("folder/server").xattrs;
    assert_eq!(server["user.note"], b"\x00binary\xff");
    assert_eq!(tree.file("folder").xattrs["user.folder"], b"of a directory");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_link_targets_that_are_not_utf8_reach_the_image() {
    let context = Context::new(COPY_ALL);
    context.write(b"caf\xe9/\xff\xfe", "latin");
    context.write("größe 日本", "utf-8");
    context.write("a\nb\\c\"d", "odd");
    symlink(OsStr::from_bytes(b"caf\xe9/\xff\xfe"), context.join(b"li\x80nk")).unwrap();
    let tree = build_tree(&connect().await, context.path()).await;
    assert_eq!(tree.file(b"caf\xe9/\xff\xfe").content, b"latin");
    assert_eq!(tree.text("größe 日本"), "utf-8");
    assert_eq!(tree.text("a\nb\\c\"d"), "odd");
    assert_eq!(tree.file(b"li\x80nk").link, b"caf\xe9/\xff\xfe");
}

/// Tars of BuildKit hold whole seconds, so a step looks at the files.
#[tokio::test(flavor = "multi_thread")]
async fn modification_times_keep_their_nanoseconds() {
    let context = Context::with_shell(
        "RUN --mount=type=bind,target=/context \
         cd /context && /bin/busybox stat -c '%n %y' file folder old > /times\n",
    );
    let set = |name: &str, time: SystemTime| {
        fs::File::open(context.join(name)).unwrap().set_modified(time).unwrap();
    };
    context.write("file", "x");
    context.write("old", "x");
    fs::create_dir(context.join("folder")).unwrap();
    let nanoseconds = |seconds, nanos| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
    set("file", nanoseconds(1_000_000_000, 123_456_789));
    set("folder", nanoseconds(1_000_000_000, 1));
    set("old", SystemTime::UNIX_EPOCH - Duration::new(1, 250_000_000));
    let tree = build_tree(&connect().await, context.path()).await;
    let times = "file 2001-09-09 01:46:40.123456789 +0000\n\
                 folder 2001-09-09 01:46:40.000000001 +0000\n\
                 old 1969-12-31 23:59:58.750000000 +0000\n";
    assert_eq!(tree.text("times"), times);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_length_around_a_packet_reach_the_image() {
    const PACKET_BYTES: usize = 128 << 10;
    let context = Context::new(COPY_ALL);
    let lengths = [0, 1, PACKET_BYTES - 1, PACKET_BYTES, PACKET_BYTES + 1, 40 * PACKET_BYTES + 7];
    for length in lengths {
        context.write(length.to_string(), noise(length as u64, length));
    }
    for number in 0..1500 {
        context.write(format!("many/{number}"), number.to_string());
    }
    let build = Build::of(context.path()).export("tar", &[]);
    let progress = build.solve.services.progress.clone();
    let tree = build.run(&connect().await).await.tree();
    for length in lengths {
        let content = &tree.file(length.to_string()).content;
        assert!(
            *content == noise(length as u64, length),
            "{length} bytes, found {}",
            content.len()
        );
    }
    for number in 0..1500 {
        assert_eq!(tree.text(&format!("many/{number}")), number.to_string());
    }
    let bytes: usize = lengths.iter().sum();
    assert!(progress.sent().bytes > bytes as u64, "{:?}", progress.sent());
    assert!(progress.sent().files >= 1500, "{:?}", progress.sent());
}
