//! Texts that must fit somewhere. Pure.

/// The text, or as much of its beginning as fits into `limit` bytes with a sign that something is missing.
pub fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit.saturating_sub('…'.len_utf8()));
    format!("{}…", &text[..end])
}

/// The text, or its end after a sign that something is missing: of a log the end is what counts.
pub fn shortened_to_end(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let begin = text.ceil_char_boundary(text.len() - limit.saturating_sub('…'.len_utf8()));
    format!("…{}", &text[begin..])
}

/// The text without control characters but tabs and line breaks: it ends in terminals.
pub fn without_controls(text: &str) -> String {
    text.chars()
        .filter(|character| matches!(character, '\t' | '\n') || !character.is_control())
        .collect()
}

/// The text without what may be secret in its addresses: user, password and query. Storage signs its addresses by the query.
pub fn without_secrets(text: &str) -> String {
    const AUTHORITY: &str = "://";
    let ends = |character: char| character.is_whitespace() || "\"'`<>".contains(character);
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(AUTHORITY) {
        let (before, after) = rest.split_at(at + AUTHORITY.len());
        safe.push_str(before);
        let (address, behind) = after.split_at(after.find(ends).unwrap_or(after.len()));
        let (authority, path) =
            address.split_at(address.find(['/', '?', '#']).unwrap_or(address.len()));
        safe.push_str(authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        match path.split_once('?') {
            // What follows an address in a sentence is no part of its query.
            Some((path, query)) => {
                let sentence = &query[query.trim_end_matches([':', ',', ';', '.', ')']).len()..];
                safe.extend([path, "?…", sentence]);
            }
            None => safe.push_str(path),
        }
        rest = behind;
    }
    safe + rest
}

#[cfg(test)]
mod tests {
    use super::{shortened, shortened_to_end, without_controls, without_secrets};

    #[test]
    fn a_text_loses_what_would_steer_a_terminal() {
        assert_eq!(without_controls("a\u{1b}[31mb\0\r\n\tc ä"), "a[31mb\n\tc ä");
    }

    #[test]
    fn addresses_lose_what_may_be_secret() {
        for (text, expected) in [
            ("no address", "no address"),
            ("GET https://r.example/v2/: 401", "GET https://r.example/v2/: 401"),
            (
                "git clone https://me:hunter2@git.example/a.git failed",
                "git clone https://git.example/a.git failed",
            ),
            ("https://me@x@git.example", "https://git.example"),
            (
                "PUT request to https://r/v2/x/blobs/uploads/1?_state=secret&b=c: 500 Internal Server Error",
                "PUT request to https://r/v2/x/blobs/uploads/1?…: 500 Internal Server Error",
            ),
            ("Get \"https://s3/x?X-Amz-Signature=secret\": EOF", "Get \"https://s3/x?…\": EOF"),
            ("http://a:b@c and http://d?e=f, g", "http://c and http://d?…, g"),
            ("ssh://git@host/@scope/x://y@z/?", "ssh://host/@scope/x://y@z/?…"),
        ] {
            assert_eq!(without_secrets(text), expected, "{text}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        for (text, limit, begin, end) in [
            ("short", 5, "short", "short"),
            ("somewhat", 6, "som…", "…hat"),
            ("ääää", 6, "ä…", "…ä"),
            ("long", 3, "…", "…"),
            ("", 0, "", ""),
        ] {
            assert_eq!(
                (shortened(text, limit).as_str(), shortened_to_end(text, limit).as_str()),
                (begin, end),
                "{text} {limit}"
            );
        }
    }
}
