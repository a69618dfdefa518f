//! References and digests of images. What is taken here must be a reference for others too: oci-spec has the grammar of the
//! distribution specification.

use oci_spec::distribution::Reference;
use ocibuild::plan::{Digest, ImageReference};
use proptest::prelude::*;

use crate::{hold, made_of};

const PIECES: &[&str] = &[
    "a",
    "b1",
    "A",
    "0",
    ".",
    "..",
    "_",
    "__",
    "___",
    "-",
    "--",
    "/",
    ":",
    "@",
    "5000",
    "99999",
    "localhost",
    "docker.io",
    "ä",
    " ",
    "\n",
    "sha256:",
    "[::1]",
    "\0",
];

fn is_a_reference_for_others(
    registry: Option<&str>,
    name: &str,
    tag: &str,
) -> Result<(), TestCaseError> {
    let Ok(reference) = ImageReference::new(registry, name, tag) else { return Ok(()) };
    let text = reference.to_string();
    let others = text.parse::<Reference>();
    prop_assert!(
        others.as_ref().is_ok_and(|others| others.tag() == Some(tag)),
        "{text:?} is taken, and oci-spec says {others:?}"
    );
    if let Some(suffixed) = reference.with_tag_suffix("stage") {
        prop_assert!(suffixed.to_string().parse::<Reference>().is_ok());
    }
    Ok(())
}

#[test]
fn parts_that_are_almost_right_make_a_reference_or_none() {
    let parts = (prop::option::of(made_of(PIECES, 6)), made_of(PIECES, 6), made_of(PIECES, 4));
    hold(2, parts, |(registry, name, tag)| {
        is_a_reference_for_others(registry.as_deref(), &name, &tag)
    });
}

#[test]
fn parts_by_the_grammar_are_taken() {
    let part = "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}";
    let name = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    hold(
        4,
        (
            prop::option::of("[a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?"),
            name,
            "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ),
        |(registry, name, tag)| {
            prop_assert!(
                ImageReference::new(registry.as_deref(), &name, &tag).is_ok(),
                "{registry:?} {name:?} {tag:?}"
            );
            is_a_reference_for_others(registry.as_deref(), &name, &tag)
        },
    );
}

#[test]
fn any_text_is_a_digest_or_none() {
    let text = prop_oneof![any::<String>(), "sha256:[0-9a-f]{63,65}", "sha256:[0-9a-fA-Fg]{64}"];
    hold(4, text, |text| {
        if let Ok(digest) = Digest::try_from(text.clone()) {
            prop_assert_eq!(format!("sha256:{}", digest.hex()), text.clone());
            prop_assert_eq!((digest.short().len(), text.len()), (12, 71));
        }
        Ok(())
    });
}
