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

#[cfg(test)]
mod tests {
    use super::{shortened, shortened_to_end};

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        for (text, limit, begin, end) in [
            ("short", 5, "short", "short"),
            ("somewhat", 6, "som…", "…hat"),
            ("ääää", 6, "ä…", "…ä"),
            ("long", 3, "…", "…"),
            ("", 0, "", ""),
        ] {
            assert_eq!((shortened(text, limit).as_str(), shortened_to_end(text, limit).as_str()), (begin, end), "{text} {limit}");
        }
    }
}
