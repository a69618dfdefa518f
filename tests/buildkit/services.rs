//! What a build asks of its session: directories, OCI layouts, secrets, SSH agents.

use std::{fs, path::Path, process::Command};

use ocibuild::buildkit::{
    MAX_SECRET_BYTES, Secret, VertexKind,
    ssh_agent::{SshAgent, SshKey},
};
use sha2::{Digest, Sha256};

use crate::{
    build::Build,
    context::{Context, SHELL_LINES, noise},
    daemon::connect,
};

#[tokio::test(flavor = "multi_thread")]
async fn named_contexts_are_directories_of_the_client() {
    let context = Context::new(
        "FROM scratch\nCOPY own /\nCOPY --from=first file /first\nCOPY --from=second sub /second\n",
    );
    context.write("own", "main");
    let (first, second) = (Context::empty(), Context::empty());
    first.write("file", "of the first");
    second.write("sub/file", "of the second");
    second.write("sub/secret.key", "ignored");
    second.write(".dockerignore", "**/*.key\n");
    let built = Build::of(context.path())
        .directory("one", first.path())
        .directory("two", second.path())
        .attribute("context:first", "local:one")
        .attribute("context:second", "local:two")
        .export("tar", &[])
        .run(&connect().await)
        .await;
    let tree = built.tree();
    assert_eq!(tree.names(), ["first", "own", "second", "second/file"]);
    assert_eq!(tree.text("first"), "of the first");
    assert_eq!(tree.text("second/file"), "of the second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_the_client_does_not_offer_is_refused_by_name() {
    let context = Context::new("FROM scratch\nCOPY --from=other file /\n");
    let built = Build::of(context.path())
        .attribute("context:other", "local:absent")
        .run(&connect().await)
        .await;
    let failure = built.failure();
    assert!(failure.message.contains("no access allowed to dir \"absent\""), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oci_layout_is_the_base_of_an_image() {
    let connection = connect().await;
    let base = Context::new("FROM scratch\nCOPY large /base\nLABEL base=yes\n");
    let large = noise(7, 2 << 20);
    base.write("large", &large);
    let image = Build::of(base.path()).export("oci", &[]).run(&connection).await.image(0);
    let layout = tempfile::tempdir().unwrap();
    image.write_layout(layout.path());

    let context = Context::new("FROM base\nCOPY Dockerfile /\n");
    let mut build = Build::of(context.path())
        .attribute("context:base", &format!("oci-layout://store@{}", image.digest))
        .export("tar", &[])
        .export("oci", &[]);
    let stores = &mut build.solve.services.layouts;
    stores.insert("store".to_owned(), layout.path().to_owned());
    let built = build.run(&connection).await;
    assert!(built.tree().file("base").content == large, "the bytes of the base differ");
    let child = built.image(1);
    assert_eq!(child.config["config"]["Labels"]["base"], "yes");
    assert_eq!(child.layers()[0], image.layers()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_an_oci_layout_lacks_is_named() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let context = Context::new("FROM base\nCOPY Dockerfile /\n");
    let layout = tempfile::tempdir().unwrap();
    let mut build = Build::of(context.path())
        .attribute("context:base", &format!("oci-layout://store@{digest}"));
    let stores = &mut build.solve.services.layouts;
    stores.insert("store".to_owned(), layout.path().to_owned());
    let failure = build.run(&connect().await).await.failure();
    assert!(failure.message.contains(&digest), "{failure:?}");
    assert!(failure.message.contains("not found"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_their_steps_and_stay_out_of_the_image() {
    let context = Context::with_shell(
        "RUN --mount=type=secret,id=token,required=true \
         /bin/busybox sha256sum < /run/secrets/token > /token\n\
         RUN --mount=type=secret,id=large,target=/large \
         /bin/busybox sha256sum < /large > /largest\n\
         RUN --mount=type=secret,id=absent [ ! -e /run/secrets/absent ] && echo absent > /absent\n",
    );
    let mut build = Build::of(context.path()).export("tar", &[]);
    let large = vec![b'x'; MAX_SECRET_BYTES];
    let secrets = &mut build.solve.services.secrets;
    for (id, value) in [("token", b"hunter2\x00\xff".to_vec()), ("large", large.clone())] {
        secrets.insert(id.to_owned(), Secret::new(value).unwrap());
    }
    let tree = build.run(&connect().await).await.tree();
    let sum = |bytes: &[u8]| format!("{}  -\n", hex::encode(Sha256::digest(bytes)));
    assert_eq!(tree.text("token"), sum(b"hunter2\x00\xff"));
    assert_eq!(tree.text("largest"), sum(&large));
    assert_eq!(tree.text("absent"), "absent\n");
    for (name, entry) in tree.iter().filter(|(name, _)| name.as_slice() != b"bin/busybox") {
        let is_there = entry.content.windows(7).any(|window| window == b"hunter2");
        assert!(!is_there, "the secret is in {}", String::from_utf8_lossy(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_secret_that_is_missing_is_named() {
    let context = Context::with_shell(
        "RUN --mount=type=secret,id=token,required=true cat /run/secrets/token\n",
    );
    let failure = Build::of(context.path()).run(&connect().await).await.failure();
    assert!(failure.message.contains("secret token: not found"), "{failure:?}");
    let line = SHELL_LINES + 1;
    let location = failure.location.unwrap();
    assert_eq!((location.first_line, location.last_line), (line, line));
    assert_eq!(failure.vertex.unwrap().kind(), Some(VertexKind::Step));
}

/// Copies a program and the libraries that it needs into a context.
fn copy_with_libraries(context: &Context, program: &Path) {
    let listed = Command::new("ldd").arg(program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain([program.to_str().unwrap()]) {
        context.write(format!("root{path}"), fs::read(path).unwrap());
        let permissions = fs::metadata(path).unwrap().permissions();
        fs::set_permissions(context.join(format!("root{path}")), permissions).unwrap();
    }
}

fn generate_key(folder: &Path) -> (SshAgent, String) {
    let path = folder.join("key");
    let generated = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(generated.success());
    let key = SshKey::parse(&fs::read(&path).unwrap()).unwrap();
    let public = fs::read_to_string(path.with_extension("pub")).unwrap();
    (SshAgent::new(vec![key]), public.split(' ').nth(1).unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_with_an_ssh_mount_see_the_keys_of_their_agent() {
    let context = Context::with_shell(
        "COPY root /\n\
         RUN --mount=type=ssh ssh-add -L > /default\n\
         RUN --mount=type=ssh,id=other ssh-add -L > /other\n\
         RUN --mount=type=ssh,id=other ssh-add -D || echo refused > /changed\n\
         RUN --mount=type=ssh,id=absent [ ! -e \"$SSH_AUTH_SOCK\" ] && echo absent > /absent
",
    );
    copy_with_libraries(&context, Path::new("/usr/bin/ssh-add"));
    let keys = tempfile::tempdir().unwrap();
    let mut build = Build::of(context.path()).export("tar", &[]);
    let mut publics = Vec::new();
    for id in ["default", "other"] {
        let folder = keys.path().join(id);
        fs::create_dir(&folder).unwrap();
        let (agent, public) = generate_key(&folder);
        build.solve.services.ssh.insert(id.to_owned(), agent);
        publics.push(format!("ssh-ed25519 {public}"));
    }
    let tree = build.run(&connect().await).await.tree();
    assert_eq!(tree.text("default").trim(), publics[0]);
    assert_eq!(tree.text("other").trim(), publics[1]);
    assert_eq!(tree.text("changed"), "refused\n");
    assert_eq!(tree.text("absent"), "absent\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_ssh_agent_that_is_missing_is_named() {
    let context = Context::with_shell("RUN --mount=type=ssh,id=deploy,required=true true\n");
    let failure = Build::of(context.path()).run(&connect().await).await.failure();
    assert!(failure.message.contains("unset ssh forward key deploy"), "{failure:?}");
    assert_eq!(failure.location.unwrap().first_line, SHELL_LINES + 1);
}
