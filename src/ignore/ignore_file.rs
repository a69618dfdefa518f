//! The lines of a `.dockerignore`.

use super::{
    InvalidPattern,
    bytes::{clean, trim_space},
    pattern::Pattern,
};

/// Greatest size of a `.dockerignore`, in bytes.
pub const MAX_IGNORE_FILE_BYTES: u64 = 1 << 18;

/// Greatest number of patterns in a `.dockerignore`.
pub const MAX_IGNORE_FILE_PATTERNS: usize = 5_000;

/// Lines of this length or longer are rejected, as by Go's `bufio.Scanner`.
const LINE_LIMIT: usize = 64 * 1024;

/// The patterns of a `.dockerignore`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IgnoreFile {
    /// The patterns, to be used as exclude patterns.
    pub patterns: Vec<Vec<u8>>,
    /// Line of each pattern, from 1.
    lines: Vec<usize>,
}

impl IgnoreFile {
    /// Adds the line to an error about a pattern of the file.
    pub fn locate(&self, error: InvalidPattern) -> IgnoreFileError {
        let line = self.lines.get(error.index).copied().unwrap_or_default();
        IgnoreFileError::Pattern { line, error }
    }
}

/// A `.dockerignore` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreFileError {
    /// The file is too large.
    #[error("file is larger than {MAX_IGNORE_FILE_BYTES} bytes")]
    TooLarge,
    /// The file has too many patterns.
    #[error("line {line}: file has more than {MAX_IGNORE_FILE_PATTERNS} patterns")]
    TooManyPatterns {
        /// Line of the first pattern that is too many, from 1.
        line: usize,
    },
    /// A line is too long.
    #[error("line {line}: line is longer than {} bytes", LINE_LIMIT - 1)]
    LineTooLong {
        /// The line, from 1.
        line: usize,
    },
    /// A pattern is invalid.
    #[error("line {line}: {error}")]
    Pattern {
        /// The line, from 1.
        line: usize,
        /// What is wrong with the pattern.
        error: InvalidPattern,
    },
}

/// Reads a `.dockerignore`: one pattern a line, white space around it removed, its path cleaned
/// and made relative. Empty lines and lines that start with `#` are skipped.
pub fn parse_ignore_file(content: &[u8]) -> Result<IgnoreFile, IgnoreFileError> {
    if content.len() as u64 > MAX_IGNORE_FILE_BYTES {
        return Err(IgnoreFileError::TooLarge);
    }
    let mut file = IgnoreFile::default();
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    for (index, text) in content.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        if text.len() >= LINE_LIMIT {
            return Err(IgnoreFileError::LineTooLong { line });
        }
        let text =
            if index == 0 { text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text) } else { text };
        let Some(pattern) = pattern(text) else { continue };
        if file.patterns.len() == MAX_IGNORE_FILE_PATTERNS {
            return Err(IgnoreFileError::TooManyPatterns { line });
        }
        let index = file.patterns.len();
        if let Err(reason) = Pattern::parse(&pattern) {
            let error = InvalidPattern::new(index, trim_space(text), reason);
            return Err(IgnoreFileError::Pattern { line, error });
        }
        file.patterns.push(pattern);
        file.lines.push(line);
    }
    Ok(file)
}

/// Returns the pattern of a line, unless the line is empty or a comment.
fn pattern(line: &[u8]) -> Option<Vec<u8>> {
    if line.starts_with(b"#") {
        return None;
    }
    let trimmed = trim_space(line);
    if trimmed.is_empty() {
        return None;
    }
    let (sign, path) = match trimmed.strip_prefix(b"!") {
        Some(path) => (&b"!"[..], trim_space(path)),
        None => (&b""[..], trimmed),
    };
    if path.is_empty() {
        return Some(sign.to_vec());
    }
    let cleaned = clean(path);
    let relative = match cleaned.strip_prefix(b"/") {
        Some(relative) if !relative.is_empty() => relative,
        _ => &cleaned,
    };
    Some([sign, relative].concat())
}

#[cfg(test)]
mod tests {
    use super::{IgnoreFileError, MAX_IGNORE_FILE_PATTERNS, parse_ignore_file};

    fn patterns(content: &[u8]) -> Vec<String> {
        let file = parse_ignore_file(content).unwrap();
        file.patterns.iter().map(|it| String::from_utf8_lossy(it).into_owned()).collect()
    }

    #[test]
    fn lines_are_read_as_docker_reads_them() {
        let content = "\u{feff}# comment\n  /a/b/ \r\n\n#x\n #y\n! /keep/../c\n/\n./d\n\u{feff}e";
        let expected = ["a/b", "#y", "!c", "/", "d", "\u{feff}e"];
        assert_eq!(patterns(content.as_bytes()), expected);
        assert_eq!(patterns(b""), [""; 0]);
    }

    #[test]
    fn errors_name_the_line_and_the_pattern() {
        for (content, words) in [
            ("a\n!\n", "line 2: invalid pattern \"!\": "),
            ("# [\n[a", "line 2: invalid pattern \"[a\": "),
            ("a\n\n /[] \n", "line 3: invalid pattern \"/[]\": "),
        ] {
            let error = parse_ignore_file(content.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[test]
    fn size_is_bounded() {
        let many = "a\n".repeat(MAX_IGNORE_FILE_PATTERNS + 1);
        let line = MAX_IGNORE_FILE_PATTERNS + 1;
        assert_eq!(
            parse_ignore_file(many.as_bytes()),
            Err(IgnoreFileError::TooManyPatterns { line })
        );
        assert_eq!(
            parse_ignore_file(&vec![b'a'; 1 << 16]),
            Err(IgnoreFileError::LineTooLong { line: 1 })
        );
        assert_eq!(parse_ignore_file(&vec![b'\n'; 1 << 19]), Err(IgnoreFileError::TooLarge));
    }
}
