//! Files that the client's user may not read.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use ocibuild::buildkit::{SolveError, sender::SendError};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::runtime::Runtime;

use crate::{
    build::{Build, Built},
    context::Context,
    daemon::connect,
};

const NOBODY: u32 = 65534;

/// Creates a runtime whose threads, which read the files, are not root.
fn unprivileged() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(|| {
            // A thread that such a thread starts is one already.
            if !rustix::process::geteuid().is_root() {
                return;
            }
            let (user, group) =
                (rustix::fs::Uid::from_raw(NOBODY), rustix::fs::Gid::from_raw(NOBODY));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(group, group, group).unwrap();
            set_thread_res_uid(user, user, user).unwrap();
        })
        .enable_all()
        .build()
        .unwrap()
}

/// Connects as root and builds as another user.
fn build(context: &Context) -> Built {
    fs::set_permissions(context.path(), fs::Permissions::from_mode(0o755)).unwrap();
    unprivileged().block_on(async {
        Build::of(context.path()).export("tar", &[]).run(&connect().await).await
    })
}

fn set_mode(context: &Context, name: &str, mode: u32) {
    fs::set_permissions(context.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// Checks that a build fails because of one entry.
#[track_caller]
fn assert_unreadable(built: Built, expected: &str, expected_mode: u32) {
    let error = built.error();
    let text = error.to_string();
    let SolveError::Send { directory, source: SendError::Unreadable { path, mode, uid, .. } } =
        error
    else {
        panic!("{error:?}")
    };
    assert_eq!((directory.as_str(), path.as_path()), ("context", Path::new(expected)));
    assert_eq!((mode, uid), (expected_mode, 0));
    let owner = format!("cannot read \"{expected}\" (mode {mode:04o}, owner 0:0)");
    assert!(text.contains(&owner), "{text}");
    assert!(text.contains("Permission denied"), "{text}");
}

#[test]
fn a_file_that_is_copied_but_cannot_be_read_is_named() {
    let context = Context::new("FROM scratch\nCOPY . /\n");
    context.write("folder/readable", "x");
    context.write("folder/secret", "x");
    set_mode(&context, "folder/secret", 0o600);
    assert_unreadable(build(&context), "folder/secret", 0o600);
}

#[test]
fn a_directory_that_is_copied_but_cannot_be_read_is_named() {
    let context = Context::new("FROM scratch\nCOPY . /\n");
    context.write("folder/private/file", "x");
    set_mode(&context, "folder/private", 0o700);
    assert_unreadable(build(&context), "folder/private", 0o700);
}

#[test]
fn entries_that_no_copy_asks_for_need_not_be_readable() {
    let context = Context::new("FROM scratch\nCOPY folder/readable other* /\n");
    for name in ["folder/readable", "folder/secret", "other", "private/file"] {
        context.write(name, "x");
    }
    set_mode(&context, "folder/secret", 0o600);
    set_mode(&context, "private", 0o700);
    assert_eq!(build(&context).tree().names(), ["other", "readable"]);
}

#[test]
fn ignored_entries_need_not_be_readable() {
    let context = Context::new("FROM scratch\nCOPY . /\n");
    for name in ["folder/readable", "folder/secret", "private/file"] {
        context.write(name, "x");
    }
    context.write(".dockerignore", "folder/secret\nprivate\nDockerfile\n.dockerignore\n");
    set_mode(&context, "folder/secret", 0o600);
    set_mode(&context, "private", 0o700);
    assert_eq!(build(&context).tree().names(), ["folder", "folder/readable"]);
}
