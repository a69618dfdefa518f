//! Names and digests of images, by the grammar of the OCI distribution specification.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `sha256:` and 64 lower-case hexadecimal digits (OCI image specification, descriptor, "Digests").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a digest.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a digest: sha256: and 64 lower-case hexadecimal digits")]
pub struct InvalidDigest(String);

impl Digest {
    /// The digest of a SHA-256 sum.
    pub fn from_sha256(sum: impl AsRef<[u8]>) -> Self {
        Self(format!("sha256:{}", hex::encode(sum)))
    }

    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal digits alone.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The digest cut to twelve digits, for tables.
    pub fn short(&self) -> String {
        self.0["sha256:".len()..].chars().take(12).collect::<String>()
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        let digits = text.strip_prefix("sha256:").unwrap_or_default();
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == 64 && digits.bytes().all(is_digit) {
            Ok(Self(text))
        } else {
            Err(InvalidDigest(text))
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Registry, repository and tag of an image. Its parts were checked when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageReference {
    registry: Option<String>,
    name: String,
    tag: String,
}

/// A part of a reference that breaks the grammar.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidReference {
    /// The name.
    #[error(
        "imageName {0:?}: lower-case letters, digits and single '.', '_' or '-' between them, parts separated by '/'"
    )]
    Name(String),
    /// The tag.
    #[error(
        "imageTag {0:?}: letters, digits, '_', '.' and '-', not beginning with '.' or '-', at most 128 characters"
    )]
    Tag(String),
    /// The registry.
    #[error(
        "registry {0:?}: a host, with a port and a lower-case path if need be, such as docker.io/my-team"
    )]
    Registry(String),
    /// All together.
    #[error(
        "registry and imageName together are {0} characters long; the distribution specification allows 255"
    )]
    TooLong(usize),
}

impl ImageReference {
    /// Checks the parts and puts them together.
    pub fn new(registry: Option<&str>, name: &str, tag: &str) -> Result<Self, InvalidReference> {
        if !name.split('/').all(is_path_component) {
            return Err(InvalidReference::Name(name.to_owned()));
        }
        if !is_tag(tag) {
            return Err(InvalidReference::Tag(tag.to_owned()));
        }
        if let Some(registry) = registry
            && !is_registry(registry)
        {
            return Err(InvalidReference::Registry(registry.to_owned()));
        }
        let length = registry.map_or(0, |registry| registry.len() + 1) + name.len();
        if length > 255 {
            return Err(InvalidReference::TooLong(length));
        }
        Ok(Self {
            registry: registry.map(str::to_owned),
            name: name.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

impl ImageReference {
    /// The same image with `-suffix` behind the tag; none if that would be no tag.
    pub fn with_tag_suffix(&self, suffix: &str) -> Option<Self> {
        let tag = format!("{}-{suffix}", self.tag);
        is_tag(&tag).then(|| Self { tag, ..self.clone() })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(formatter, "{registry}/")?;
        }
        write!(formatter, "{}:{}", self.name, self.tag)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = String::new();
    let mut after_word = false;
    for character in component.chars() {
        if character.is_ascii() && alphanumeric(character as u8) {
            let allowed = separator.is_empty()
                || separator == "."
                || separator == "_"
                || separator == "__"
                || separator.chars().all(|c| c == '-');
            if !allowed {
                return false;
            }
            separator.clear();
            after_word = true;
        } else if after_word {
            separator.push(character);
        } else {
            return false;
        }
    }
    after_word && separator.is_empty()
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|&byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_registry(registry: &str) -> bool {
    let (address, path) =
        registry.split_once('/').map_or((registry, None), |(address, path)| (address, Some(path)));
    let (host, port) =
        address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        label.starts_with(|c: char| c.is_ascii_alphanumeric())
            && label.ends_with(|c: char| c.is_ascii_alphanumeric())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(is_label)
        && port.is_none_or(|port| {
            !port.is_empty()
                && port.parse::<u16>().is_ok()
                && port.bytes().all(|byte| byte.is_ascii_digit())
        })
        && path.is_none_or(|path| path.split('/').all(is_path_component))
}

#[cfg(test)]
mod tests {
    use super::{Digest, ImageReference, InvalidReference};

    #[test]
    fn references_follow_the_grammar_of_the_distribution_specification() {
        for (registry, name, tag, expected) in [
            (None, "my-app", "latest", Some("my-app:latest")),
            (
                Some("docker.io/my-repo"),
                "my-app",
                "v1.0.0",
                Some("docker.io/my-repo/my-app:v1.0.0"),
            ),
            (Some("localhost:5000"), "a/b__c/d.e", "A_1", Some("localhost:5000/a/b__c/d.e:A_1")),
            (Some("Registry.Example.com"), "a---b", "1", Some("Registry.Example.com/a---b:1")),
            (None, "", "latest", None),
            (None, "My-App", "latest", None),
            (None, "a//b", "latest", None),
            (None, "a..b", "latest", None),
            (None, "a___b", "latest", None),
            (None, "-a", "latest", None),
            (None, "a-", "latest", None),
            (None, "ä", "latest", None),
            (None, "a", "", None),
            (None, "a", ".x", None),
            (None, "a", "x:y", None),
            (Some("https://docker.io"), "a", "x", None),
            (Some("docker.io/"), "a", "x", None),
            (Some("docker.io/My"), "a", "x", None),
            (Some("host:"), "a", "x", None),
            (Some("host:99999"), "a", "x", None),
            (Some("-host"), "a", "x", None),
            (Some("a..example"), "a", "x", None),
            (Some("a-.example"), "a", "x", None),
        ] {
            let reference = ImageReference::new(registry, name, tag);
            assert_eq!(
                reference.ok().map(|reference| reference.to_string()).as_deref(),
                expected,
                "{registry:?} {name:?} {tag:?}"
            );
        }
    }

    #[test]
    fn a_reference_longer_than_255_characters_is_refused() {
        assert_eq!(
            ImageReference::new(Some("r.example"), &"a".repeat(250), "x"),
            Err(InvalidReference::TooLong(260))
        );
    }

    #[test]
    fn a_digest_is_sha256_with_64_lower_case_digits() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(Digest::try_from(good.clone()).unwrap().short(), "0a0a0a0a0a0a");
        for bad in
            ["", "sha256:", "sha512:00", &good.to_uppercase(), &good[..70], &format!("{good}0")]
        {
            assert!(Digest::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
