//! The patterns of a `.dockerignore`, and the paths that are compared with them.

use ocibuild::ignore::{
    Filter, MAX_IGNORE_FILE_BYTES, MAX_IGNORE_FILE_PATTERNS, Patterns, parse_ignore_file,
};
use proptest::prelude::*;

use crate::{hold, made_of};

const PIECES: &[&str] = &[
    "a", "b", "*", "**", "**/", "?", "[", "]", "[a-b]", "[^a]", "[b-a]", "-", "^", "\\", "/", "./",
    "../", "!", "#", " ", "\n", "\r\n", "\n!", "ä", "(", ")", "{9}", "{99999}", "+", "|", "$", ".",
    "\u{feff}", "\t",
];
const PATHS: &[&str] = &["a", "b", "/", ".", "..", "ä", "[", "*", "\\", "\n", " "];

#[test]
fn patterns_that_are_almost_right_are_read_or_refused() {
    hold(2, (made_of(PIECES, 24), made_of(PATHS, 12)), |(text, path)| {
        match parse_ignore_file(text.as_bytes()) {
            Ok(file) => {
                let path = path.as_bytes();
                let patterns = Patterns::new(&file.patterns).unwrap();
                let _ = patterns.matches(path);
                let mut and_all = file.patterns;
                and_all.push(b"**".to_vec());
                let is_excluded = Patterns::new(&and_all).unwrap().matches(path);
                prop_assert!(
                    is_excluded.unwrap_or(true),
                    "** after {text:?} does not match {path:?}"
                );
            }
            Err(error) => prop_assert!(error.to_string().starts_with("line "), "{error}"),
        }
        Ok(())
    });
}

#[test]
fn any_text_and_any_path_can_be_compared() {
    let path = prop::collection::vec(any::<u8>(), 0..40);
    hold(2, ("(?s).{0,60}", path), |(text, path)| {
        if let Ok(file) = parse_ignore_file(text.as_bytes()) {
            let filter = Filter::new(&file.patterns, &file.patterns).unwrap();
            let _ = filter.walk().visit(&path, true, ());
        }
        Ok(())
    });
}

#[test]
fn a_file_of_the_greatest_size_takes_little_memory() {
    let most = usize::try_from(MAX_IGNORE_FILE_BYTES).unwrap();
    for line in ["?*[a-z]**/".repeat(12), "**/".repeat(20_000), "[ab]{1000}".repeat(10)] {
        let count = (most / (line.len() + 1)).min(MAX_IGNORE_FILE_PATTERNS);
        let file = parse_ignore_file(format!("{line}\n").repeat(count).as_bytes()).unwrap();
        let patterns = Patterns::new(&file.patterns).unwrap();
        // Counted repetitions exhaust the memory of a list.
        let _ = patterns.matches(b"a/b.c");
    }
    let too_many = "a\n".repeat(MAX_IGNORE_FILE_PATTERNS + 1);
    assert!(parse_ignore_file(too_many.as_bytes()).is_err());
}
