//! Helpers for paths and patterns as bytes: decoding, trimming and cleaning as Go's standard
//! library does.

/// The rune that stands for a byte that is not UTF-8.
pub(super) const REPLACEMENT: u32 = 0xFFFD;

/// Decodes the first rune and its width. A byte that does not start valid UTF-8 decodes as
/// U+FFFD of width 1. Returns `None` for empty input.
pub(super) fn decode(bytes: &[u8]) -> Option<(u32, usize)> {
    let first = *bytes.first()?;
    let width = match first {
        0x00..=0x7F => return Some((u32::from(first), 1)),
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return Some((REPLACEMENT, 1)),
    };
    let rune = bytes
        .get(..width)
        .and_then(|sequence| std::str::from_utf8(sequence).ok())
        .and_then(|text| text.chars().next());
    Some(rune.map_or((REPLACEMENT, 1), |rune| (u32::from(rune), width)))
}

/// Decodes all runes.
pub(super) fn runes(bytes: &[u8]) -> Vec<u32> {
    let mut rest = bytes;
    let mut runes = Vec::with_capacity(bytes.len());
    while let Some((rune, width)) = decode(rest) {
        runes.push(rune);
        rest = &rest[width..];
    }
    runes
}

/// Removes leading and trailing Unicode white space.
pub(super) fn trim_space(bytes: &[u8]) -> &[u8] {
    let (mut start, mut end, mut position) = (None, 0, 0);
    while let Some((rune, width)) = decode(&bytes[position..]) {
        if !char::from_u32(rune).is_some_and(char::is_whitespace) {
            start.get_or_insert(position);
            end = position + width;
        }
        position += width;
    }
    &bytes[start.unwrap_or(end)..end]
}

/// Returns the shortest path that names the same file, by the rules of Go's `filepath.Clean`.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let is_rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if is_rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (is_rooted, joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// Joins two paths and cleans the result, by the rules of Go's `filepath.Join`.
pub(super) fn join(base: &[u8], path: &[u8]) -> Vec<u8> {
    if base.is_empty() {
        return if path.is_empty() { Vec::new() } else { clean(path) };
    }
    clean(&[base, b"/", path].concat())
}

/// Splits a clean path into its parent directory (`.` if there is none) and its last part.
pub(super) fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (b"/", &path[1..]),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b".", path),
    }
}

#[cfg(test)]
mod tests {
    use super::{clean, runes, trim_space};

    #[test]
    fn clean_follows_go() {
        for (path, cleaned) in [
            ("", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("./a/./b", "a/b"),
            ("a/../b", "b"),
            ("a/..", "."),
            ("../../a", "../../a"),
            ("a/../../b", "../b"),
            ("/../a", "/a"),
            ("...", "..."),
        ] {
            assert_eq!(clean(path.as_bytes()), cleaned.as_bytes(), "{path:?}");
        }
    }

    #[test]
    fn invalid_bytes_are_runes_of_their_own() {
        assert_eq!(runes(b"a\xff\xc3\xa4\xe2\x82"), [0x61, 0xFFFD, 0xE4, 0xFFFD, 0xFFFD]);
    }

    #[test]
    fn unicode_white_space_is_trimmed() {
        assert_eq!(trim_space("\u{a0}\t a b\u{3000}\r".as_bytes()), b"a b");
        assert_eq!(trim_space(b" \xff "), b"\xff");
        assert_eq!(trim_space(b" \t"), b"");
    }
}
