//! The shared key, under which the daemon keeps uploads.

use std::{fs, os::unix::fs::PermissionsExt, time::SystemTime};

use ocibuild::buildkit::Connection;

use crate::{build::Build, context::Context, daemon::connect};

const FILES: u64 = 200;

fn set_mtime(context: &Context, name: &str, time: SystemTime) {
    fs::File::open(context.join(name)).unwrap().set_modified(time).unwrap();
}

/// Creates two contexts with a file that differs in its content alone.
fn twins() -> [Context; 2] {
    ["first", "other"].map(|content| {
        let context = Context::new("FROM scratch\nCOPY file /\n");
        context.write("file", content);
        set_mtime(&context, "file", SystemTime::UNIX_EPOCH);
        context
    })
}

async fn content(connection: &Connection, context: &Context, key: &str) -> String {
    let build = Build::of(context.path()).shared_key(key).export("tar", &[]);
    build.run(connection).await.tree().text("file")
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_with_keys_of_their_own_do_not_receive_each_others_files() {
    let connection = connect().await;
    let [first, other] = twins();
    assert_eq!(content(&connection, &first, "team/first ü").await, "first");
    assert_eq!(content(&connection, &other, "team/other ü").await, "other");
    assert_eq!(content(&connection, &first, "team/first ü").await, "first");
}

/// Shows that the test above could fail.
#[tokio::test(flavor = "multi_thread")]
async fn sources_with_one_key_receive_each_others_files() {
    let connection = connect().await;
    let [first, other] = twins();
    assert_eq!(content(&connection, &first, "one key for both").await, "first");
    assert_eq!(content(&connection, &other, "one key for both").await, "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_same_key_only_what_changed_is_requested_again() {
    let connection = connect().await;
    let context = Context::new("FROM scratch\nCOPY src /\n");
    for number in 0..FILES {
        context.write(format!("src/{number}"), number.to_string());
    }
    let upload = async |key: &str| {
        let build = Build::of(context.path()).shared_key(key);
        let progress = build.solve.services.progress.clone();
        build.run(&connection).await.response();
        progress.sent().files
    };
    // The Dockerfile is always requested.
    assert_eq!(upload("re-requests").await, FILES + 1);
    assert_eq!(upload("re-requests").await, 1, "nothing changed");
    context.write("src/7", "changed");
    assert_eq!(upload("re-requests").await, 2, "after a write");
    fs::set_permissions(context.join("src/8"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(upload("re-requests").await, 2, "after chmod");
    set_mtime(&context, "src/9", SystemTime::UNIX_EPOCH);
    assert_eq!(upload("re-requests").await, 2, "after touch");
    context.write("src/new", "new");
    fs::remove_file(context.join("src/10")).unwrap();
    assert_eq!(upload("re-requests").await, 2, "after a new file and a removal");
    assert_eq!(upload("another key").await, FILES + 1);
}
