//! What the exporters of a daemon answer: digests, and a descriptor that is JSON in base64.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use ocibuild::runner::ExportedImage;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    hold, made_of,
    wire::{Damage, damage},
};

const WORDS: &[&str] = &["sha256:", "linux", "amd64", "/", "v8", "ä", "\0", "\n", "..", "x"];
/// Texts of the image that the termination message holds.
const MAX_TEXT_BYTES: usize = 256;

fn a_digest() -> BoxedStrategy<String> {
    let digit = prop::sample::select(b"0123456789abcdefABCDEFg".as_slice());
    let digits = prop::collection::vec(digit, 62..66)
        .prop_map(|digits| format!("sha256:{}", String::from_utf8_lossy(&digits)));
    prop_oneof![
        4 => Just(format!("sha256:{}", "0a".repeat(32))),
        2 => digits,
        1 => made_of(WORDS, 4),
        1 => any::<String>(),
    ]
    .boxed()
}

fn a_value() -> BoxedStrategy<Value> {
    prop_oneof![
        8 => made_of(WORDS, 4).prop_map(Value::from),
        1 => Just(Value::from("x".repeat(5000))),
        1 => Just(Value::Null),
        1 => any::<u64>().prop_map(Value::from),
        1 => Just(json!([[{}]])),
    ]
    .boxed()
}

fn a_descriptor() -> BoxedStrategy<Vec<u8>> {
    let platform = (a_value(), a_value(), a_value()).prop_map(|(os, architecture, variant)| {
        json!({ "os": os, "architecture": architecture, "variant": variant })
    });
    let platform = prop_oneof![4 => platform, 1 => a_value()];
    let descriptor = (a_value(), platform, a_digest()).prop_map(|(kind, platform, digest)| {
        json!({ "mediaType": kind, "digest": digest, "size": 7, "platform": platform }).to_string()
    });
    let deep = (1..3000_usize).prop_map(|depth| "{\"platform\":".repeat(depth));
    (prop_oneof![12 => descriptor, 1 => deep, 1 => any::<String>()], damage())
        .prop_map(|(text, damage)| damage.apply(text.into_bytes()))
        .boxed()
}

fn a_response() -> impl Strategy<Value = HashMap<String, String>> {
    let descriptor = (a_descriptor(), damage()).prop_map(|(json, damage): (_, Damage)| {
        String::from_utf8_lossy(&damage.apply(STANDARD.encode(json).into_bytes())).into_owned()
    });
    let maybe = prop::option::weighted::<BoxedStrategy<String>>;
    (maybe(0.9, a_digest()), maybe(0.9, a_digest()), maybe(0.9, descriptor.boxed())).prop_map(
        |(digest, config, descriptor)| {
            let entries = [
                ("containerimage.digest", digest),
                ("containerimage.config.digest", config),
                ("containerimage.descriptor", descriptor),
            ];
            let given = entries.into_iter().filter_map(|(key, value)| Some((key, value?)));
            given.map(|(key, value)| (key.to_owned(), value)).collect()
        },
    )
}

#[test]
fn responses_that_are_almost_valid_describe_an_image_or_fail() {
    hold(1, a_response(), |response| {
        match ExportedImage::read(&response) {
            Ok(image) => {
                for digest in image.digest.iter().chain(&image.config_digest) {
                    let hex = digest.as_str().strip_prefix("sha256:").unwrap_or_default();
                    let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
                    prop_assert!(hex.len() == 64 && is_hex, "{digest:?}");
                }
                for text in image.media_type.iter().chain(&image.platform) {
                    prop_assert!(text.len() <= MAX_TEXT_BYTES, "{} bytes", text.len());
                }
            }
            Err(failure) => {
                prop_assert!(failure.message.starts_with("BuildKit's "), "{failure:?}");
            }
        }
        Ok(())
    });
}
