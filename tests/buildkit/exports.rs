//! Exports: a docker tar, an OCI tar and a filesystem tar of one build.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tar::EntryType;

use crate::{
    build::Build,
    context::{Context, noise},
    daemon::connect,
    image::{Tree, digest},
};

#[tokio::test(flavor = "multi_thread")]
async fn docker_oci_and_tar_exports_of_one_build_have_the_same_content() {
    let context = Context::new("FROM scratch\nCOPY large small /\nLABEL team=blue\n");
    let large = noise(1, 3 << 20);
    context.write("large", &large);
    context.write("small", "hello");
    let built = Build::of(context.path())
        .export("docker", &[("name", "example.com/team/app:v1")])
        .export("oci", &[])
        .export("tar", &[])
        .run(&connect().await)
        .await;
    let response = built.response();

    let files = Tree::read(&built.exports[2]);
    assert_eq!(files.names(), ["large", "small"]);
    assert!(files.file("large").content == large, "the bytes of the large file differ");
    assert_eq!(files.text("small"), "hello");

    let image = built.image(1);
    assert_eq!(response["containerimage.digest"], image.digest);
    let descriptor = STANDARD.decode(&response["containerimage.descriptor"]).unwrap();
    let descriptor: Value = serde_json::from_slice(&descriptor).unwrap();
    assert_eq!(descriptor["digest"], image.digest);
    for blob in image.layers().into_iter().chain([image.digest.clone()]) {
        assert_eq!(digest(image.blob(&blob)), blob);
    }
    assert_eq!(image.config["config"]["Labels"]["team"], "blue");
    assert!(image.layer(0).file("large").content == large, "the bytes in the layer differ");

    let docker = Tree::read(&built.exports[0]);
    let manifest: Value = serde_json::from_slice(&docker.file("manifest.json").content).unwrap();
    assert_eq!(manifest[0]["RepoTags"][0], "example.com/team/app:v1");
    let config = &docker.file(manifest[0]["Config"].as_str().unwrap()).content;
    assert_eq!(serde_json::from_slice::<Value>(config).unwrap(), image.config);
    let layer = &docker.file(manifest[0]["Layers"][0].as_str().unwrap()).content;
    assert_eq!(digest(layer), image.layers()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_files_and_a_tar_without_entries_arrive() {
    let context = Context::new("FROM scratch\nENV A=b\n");
    let built =
        Build::of(context.path()).export("oci", &[]).export("tar", &[]).run(&connect().await).await;
    let image = built.image(0);
    assert!(image.config["config"]["Env"].as_array().unwrap().contains(&"A=b".into()));
    assert_eq!(image.layers(), Vec::<String>::new());
    assert!(Tree::read(&built.exports[1]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_share_a_connection_do_not_mix() {
    let connection = connect().await;
    let builds = (0..8).map(|number| {
        let connection = connection.clone();
        async move {
            let context = Context::new("FROM scratch\nCOPY file /\n");
            let content = noise(number, 1 << 20);
            context.write("file", &content);
            let built = Build::of(context.path()).export("tar", &[]).run(&connection).await;
            assert_eq!(built.tree().file("file").kind, EntryType::Regular);
            assert!(built.tree().file("file").content == content, "build {number}");
        }
    });
    futures::future::join_all(builds).await;
}
