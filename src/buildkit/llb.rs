//! LLB definitions that fetch one source. The daemon fetches, so the client needs neither git nor
//! the formats of registries.

use std::collections::HashMap;

use prost::Message;
use sha2::{Digest, Sha256};

use super::proto::pb;

/// A revision of a Git repository (`client/llb/source.go`, `Git`).
pub fn git(url: &str, revision: Option<&str>) -> pb::Definition {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    let revision = revision.map(|revision| format!("#{revision}")).unwrap_or_default();
    let identifier = format!("git://{place}{revision}");
    source(identifier, &[("git.fullurl", url)], "fetch the Git repository")
}

/// A file on an HTTP server (`client/llb/source.go`, `HTTP`).
///
/// The definition has no checksum: BuildKit would compare the checksum with the body of a 404
/// response too, and report the missing file as a changed one.
pub fn http(url: &str, file: &str) -> pb::Definition {
    source(url.to_owned(), &[("http.filename", file)], "fetch the archive")
}

/// The files of an image, whose reference has its registry and digest (`client/llb/source.go`,
/// `Image`). Without a platform, BuildKit takes the daemon's own.
pub fn image(pinned: &str) -> pb::Definition {
    source(format!("docker-image://{pinned}"), &[], "fetch the image")
}

fn source(identifier: String, attributes: &[(&str, &str)], name: &str) -> pb::Definition {
    let attrs =
        attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let fetch = pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp { identifier, attrs })),
        ..pb::Op::default()
    };
    let fetch = fetch.encode_to_vec();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&fetch)));
    // The last operation of a definition names the result.
    let result = pb::Op {
        inputs: vec![pb::Input { digest: digest.clone(), index: 0 }],
        ..pb::Op::default()
    };
    let description = HashMap::from([("llb.customname".to_owned(), name.to_owned())]);
    let metadata = pb::OpMetadata { description, ..pb::OpMetadata::default() };
    pb::Definition {
        def: vec![fetch, result.encode_to_vec()],
        metadata: HashMap::from([(digest, metadata)]),
        ..pb::Definition::default()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{git, image, pb};

    fn source_of(definition: &pb::Definition) -> pb::SourceOp {
        let result = pb::Op::decode(definition.def[1].as_slice()).unwrap();
        assert!(definition.metadata.contains_key(&result.inputs[0].digest));
        match pb::Op::decode(definition.def[0].as_slice()).unwrap().op.unwrap() {
            pb::op::Op::Source(source) => source,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_git_source_is_named_as_buildkits_own_client_names_it() {
        let source = source_of(&git("https://example.com/team/app.git", Some("v1")));
        assert_eq!(source.identifier, "git://example.com/team/app.git#v1");
        assert_eq!(source.attrs["git.fullurl"], "https://example.com/team/app.git");
    }

    #[test]
    fn an_image_source_is_named_as_buildkits_own_client_names_it() {
        let pinned = format!("docker.io/library/busybox@sha256:{}", "0a".repeat(32));
        let source = source_of(&image(&pinned));
        assert_eq!(source.identifier, format!("docker-image://{pinned}"));
        assert!(source.attrs.is_empty());
    }
}
