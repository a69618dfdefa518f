//! The patterns of a `.dockerignore`, and the paths that they are asked about.

use ocibuild::client::ignore::{IgnorePatterns, MOST_BYTES};
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
        match IgnorePatterns::parse(&text) {
            Ok(patterns) => {
                let _ = patterns.leaves_out(path.as_bytes());
                let and_all = IgnorePatterns::parse(&format!("{text}\n**")).unwrap();
                prop_assert!(
                    path.is_empty() || and_all.leaves_out(path.as_bytes()),
                    "** after {text:?} leaves {path:?} in"
                );
            }
            Err(error) => prop_assert!(error.to_string().starts_with("line "), "{error}"),
        }
        Ok(())
    });
}

#[test]
fn any_text_and_any_path_can_be_asked_for() {
    let path = prop::collection::vec(any::<u8>(), 0..40);
    hold(2, ("(?s).{0,60}", path), |(text, path)| {
        if let Ok(patterns) = IgnorePatterns::parse(&text) {
            let _ = patterns.leaves_out(&path);
        }
        Ok(())
    });
}

#[test]
fn a_file_of_the_greatest_length_takes_little_memory() {
    let longest = usize::try_from(MOST_BYTES).unwrap() - 1;
    for (line, is_read) in [
        ("?*[a-z]**/".repeat(12), true),
        ("**/".repeat(longest / 3), true),
        ("a".to_owned(), false),
    ] {
        let text = format!("{line}\n").repeat(longest / (line.len() + 1));
        assert_eq!(
            IgnorePatterns::parse(&text).is_ok(),
            is_read,
            "{}",
            &line[..line.len().min(30)]
        );
    }
}
