//! Shell patterns for one path, by the rules of Go's `filepath.Match`.
//!
//! Go reports a malformed pattern only if the comparison with the name reaches the malformed
//! part. Whether a list is refused depends on that, so this module reports it at the same point.

use super::bytes::{REPLACEMENT, decode};

/// A pattern that does not follow the grammar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reports whether the whole name matches the pattern.
pub(super) fn glob_match(mut pattern: &[u8], mut name: &[u8]) -> Result<bool, Malformed> {
    while !pattern.is_empty() {
        let (has_star, chunk, rest) = next_chunk(pattern);
        pattern = rest;
        if has_star && chunk.is_empty() {
            return Ok(!name.contains(&b'/'));
        }
        let is_last = pattern.is_empty();
        if let Some(unmatched) = match_chunk(chunk, name)?
            && (unmatched.is_empty() || !is_last)
        {
            name = unmatched;
            continue;
        }
        let after_star = if has_star { match_after_star(chunk, name, is_last)? } else { None };
        match after_star {
            Some(unmatched) => name = unmatched,
            None => return Ok(false),
        }
    }
    Ok(name.is_empty())
}

/// Lets a star consume one byte or more, but no slash, before the chunk.
fn match_after_star<'n>(
    chunk: &[u8],
    name: &'n [u8],
    is_last: bool,
) -> Result<Option<&'n [u8]>, Malformed> {
    for (index, byte) in name.iter().enumerate() {
        if *byte == b'/' {
            break;
        }
        if let Some(unmatched) = match_chunk(chunk, &name[index + 1..])?
            && (unmatched.is_empty() || !is_last)
        {
            return Ok(Some(unmatched));
        }
    }
    Ok(None)
}

/// Splits off the part before the next star: whether a star leads it, the part, and the rest.
fn next_chunk(pattern: &[u8]) -> (bool, &[u8], &[u8]) {
    let stars = pattern.iter().take_while(|byte| **byte == b'*').count();
    let pattern = &pattern[stars..];
    let (mut index, mut is_in_class) = (0, false);
    while index < pattern.len() {
        match pattern[index] {
            b'\\' if index + 1 < pattern.len() => index += 1,
            b'[' => is_in_class = true,
            b']' => is_in_class = false,
            b'*' if !is_in_class => break,
            _ => {}
        }
        index += 1;
    }
    (stars > 0, &pattern[..index], &pattern[index..])
}

/// Compares a chunk with the start of the name and returns what the chunk leaves of the name.
/// The rest of the chunk is checked even after a mismatch.
fn match_chunk<'n>(mut chunk: &[u8], name: &'n [u8]) -> Result<Option<&'n [u8]>, Malformed> {
    let mut left = Some(name);
    while let Some((first, rest)) = chunk.split_first() {
        left = left.filter(|name| !name.is_empty());
        match first {
            b'[' => {
                let rune = left.and_then(decode);
                let (is_member, after) = match_class(rest, rune.map_or(0, |(rune, _)| rune))?;
                let width = rune.map_or(0, |(_, width)| width);
                left = left.filter(|_| is_member).map(|name| &name[width..]);
                chunk = after;
            }
            b'?' => {
                left = left.filter(|name| name[0] != b'/').map(|name| {
                    let width = decode(name).map_or(0, |(_, width)| width);
                    &name[width..]
                });
                chunk = rest;
            }
            first => {
                let (literal, after) = match first {
                    b'\\' => rest.split_first().ok_or(Malformed)?,
                    literal => (literal, rest),
                };
                left = left.filter(|name| name[0] == *literal).map(|name| &name[1..]);
                chunk = after;
            }
        }
    }
    Ok(left)
}

/// Reads a class whose opening bracket is consumed: whether the rune belongs to it, and the rest.
fn match_class(chunk: &[u8], rune: u32) -> Result<(bool, &[u8]), Malformed> {
    let (is_negated, mut chunk) = match chunk.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, chunk),
    };
    let (mut is_member, mut is_empty) = (false, true);
    loop {
        if !is_empty && let Some(rest) = chunk.strip_prefix(b"]") {
            return Ok((is_member != is_negated, rest));
        }
        let (low, rest) = class_rune(chunk)?;
        let (high, rest) = match rest.strip_prefix(b"-") {
            Some(rest) => class_rune(rest)?,
            None => (low, rest),
        };
        is_member |= (low..=high).contains(&rune);
        is_empty = false;
        chunk = rest;
    }
}

/// Reads one rune of a class, which may be escaped. Something has to follow it.
fn class_rune(chunk: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    if matches!(chunk.first(), None | Some(b'-' | b']')) {
        return Err(Malformed);
    }
    let chunk = chunk.strip_prefix(b"\\").unwrap_or(chunk);
    let (rune, width) = decode(chunk).ok_or(Malformed)?;
    let rest = &chunk[width..];
    if rest.is_empty() || (rune == REPLACEMENT && width == 1) {
        return Err(Malformed);
    }
    Ok((rune, rest))
}

/// Reports whether a part of a path contains an unescaped `*`, `?` or `[`.
pub(super) fn has_wildcards(part: &[u8]) -> bool {
    let mut bytes = part.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{Malformed, glob_match};

    #[test]
    fn names_are_matched_as_go_documents() {
        for (pattern, name, result) in [
            ("abc", "abc", Ok(true)),
            ("*c", "abc", Ok(true)),
            ("a*/b", "abc/b", Ok(true)),
            ("a*/b", "a/c/b", Ok(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Ok(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)),
            ("ab[e-g]", "abc", Ok(false)),
            ("ab[^e-g]", "abc", Ok(true)),
            ("a\\*b", "a*b", Ok(true)),
            ("a?b", "a☺b", Ok(true)),
            ("a???b", "a☺b", Ok(false)),
            ("[]a]", "]", Err(Malformed)),
            ("[x-]", "x", Err(Malformed)),
            ("[", "a", Err(Malformed)),
            ("a[", "x", Err(Malformed)),
            ("a*[", "x", Ok(false)),
            ("*x", "xxx", Ok(true)),
        ] {
            assert_eq!(
                glob_match(pattern.as_bytes(), name.as_bytes()),
                result,
                "{pattern:?} on {name:?}"
            );
        }
    }
}
