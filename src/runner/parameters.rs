//! Files of the source that hold parameters: build arguments, labels, the stage to build. Pure: a text in, values out. Read as
//! the Concourse task reads them.

use std::{collections::BTreeMap, path::Path};

/// Why a file does not hold what it should.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFile {
    /// A line without '='.
    #[error("line {0} has no '=': each line is name=value")]
    NoEqualsSign(usize),
    /// A line with nothing before '='.
    #[error("line {0} has no name before '='")]
    NoName(usize),
    /// Not a YAML map of texts.
    #[error("it is not a YAML map of names to texts: {0}")]
    Yaml(String),
    /// A name that cannot be one.
    #[error("{0:?} is not a name: it is empty or has '=' in it")]
    Name(String),
    /// Nothing but white space.
    #[error("it is empty; it should hold the name of a stage")]
    Empty,
    /// Not the name of a stage.
    #[error("{0:?} is not the name of a stage: letters, digits, '.', '_' and '-'")]
    Stage(String),
    /// More than a file of parameters may hold.
    #[error("it is larger than {MOST_BYTES} bytes")]
    TooLarge,
}

/// Most bytes of a file of parameters.
pub const MOST_BYTES: usize = 512 * 1024;

/// Build arguments: a file that ends in `.yml` or `.yaml` is a map of texts, any other has `name=value` lines.
pub fn build_args(path: &str, text: &str) -> Result<BTreeMap<String, String>, InvalidFile> {
    let extension = Path::new(path).extension().unwrap_or_default();
    if extension != "yml" && extension != "yaml" {
        return lines(text);
    }
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let map: BTreeMap<String, String> = serde_saphyr::from_str(text).map_err(|error| {
        InvalidFile::Yaml(error.to_string().lines().next().unwrap_or_default().to_owned())
    })?;
    match map.keys().find(|name| name.is_empty() || name.contains('=')) {
        Some(name) => Err(InvalidFile::Name(name.clone())),
        None => Ok(map),
    }
}

/// `name=value` lines. Only empty lines are skipped; a value may have '=' in it; the last line of a name counts.
pub fn lines(text: &str) -> Result<BTreeMap<String, String>, InvalidFile> {
    let mut values = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let (name, value) = line.split_once('=').ok_or(InvalidFile::NoEqualsSign(number + 1))?;
        if name.is_empty() {
            return Err(InvalidFile::NoName(number + 1));
        }
        values.insert(name.to_owned(), value.to_owned());
    }
    Ok(values)
}

/// The name of a stage, without the white space around it.
pub fn stage(text: &str) -> Result<String, InvalidFile> {
    let name = text.trim();
    if name.is_empty() {
        return Err(InvalidFile::Empty);
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.len() > 128 || !name.bytes().all(is_plain) {
        return Err(InvalidFile::Stage(name.chars().take(128).collect()));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{InvalidFile, build_args, lines, stage};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn lines_are_read_as_the_task_reads_them() {
        for (text, expected) in [
            ("", &[][..]),
            ("a=b\n\n\nc=d\n", &[("a", "b"), ("c", "d")]),
            ("a=b=c\nd=\n", &[("a", "b=c"), ("d", "")]),
            ("a= b \r\nA=2", &[("a", " b "), ("A", "2")]),
            ("# a=b\n", &[("# a", "b")]),
            ("a=1\na=2\n", &[("a", "2")]),
        ] {
            assert_eq!(lines(text), Ok(map(expected)), "{text:?}");
        }
        assert_eq!(lines("a=b\nnonsense\n"), Err(InvalidFile::NoEqualsSign(2)));
        assert_eq!(lines("=b\n"), Err(InvalidFile::NoName(1)));
    }

    #[test]
    fn yaml_values_are_texts_as_they_are_written() {
        let text = "a: b\nversion: 1.10\ncount: 3\nflag: yes\nlong: |\n  one\n  two\nempty: \"\"\n";
        let expected = map(&[
            ("a", "b"),
            ("version", "1.10"),
            ("count", "3"),
            ("flag", "yes"),
            ("long", "one\ntwo\n"),
            ("empty", ""),
        ]);
        assert_eq!(build_args("args.yml", text), Ok(expected.clone()));
        assert_eq!(build_args("args.yaml", text), Ok(expected));
        assert_eq!(build_args("args.yaml", " \n"), Ok(map(&[])));
        assert_eq!(build_args("args.yaml.txt", "a: b=c"), Ok(map(&[("a: b", "c")])));
    }

    #[test]
    fn what_is_no_map_of_texts_is_refused() {
        for text in
            ["- a\n- b\n", "a: [b]\n", "a: {b: c}\n", "just text", "a: b: c", "\"a=b\": c\n"]
        {
            assert!(build_args("args.yml", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_stage_is_trimmed_and_checked() {
        assert_eq!(stage("\n working-target \n"), Ok("working-target".to_owned()));
        assert_eq!(stage(" \n"), Err(InvalidFile::Empty));
        assert_eq!(stage("two words"), Err(InvalidFile::Stage("two words".to_owned())));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,400}") {
            let _ = (build_args("a.yml", &text), build_args("a", &text), stage(&text));
        }
    }
}
