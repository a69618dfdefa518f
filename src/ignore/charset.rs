//! Sets of characters.

/// A set of runes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CharSet {
    ranges: Vec<(u32, u32)>,
    is_negated: bool,
}

impl CharSet {
    /// Returns the set of the escape `\d`, `\s` or `\w`, or of its negation in upper case.
    pub(super) fn perl(letter: char) -> Option<Self> {
        let ranges: &[(char, char)] = match letter.to_ascii_lowercase() {
            'd' => &[('0', '9')],
            's' => &[('\t', '\n'), ('\x0C', '\r'), (' ', ' ')],
            'w' => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
            _ => return None,
        };
        Some(Self::of(ranges, letter.is_ascii_uppercase()))
    }

    /// Returns the set of a POSIX class, such as `alpha` or `^alpha`.
    pub(super) fn posix(name: &str) -> Option<Self> {
        let (name, is_negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
        let ranges: &[(char, char)] = match name {
            "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
            "alpha" => &[('A', 'Z'), ('a', 'z')],
            "ascii" => &[('\0', '\x7F')],
            "blank" => &[('\t', '\t'), (' ', ' ')],
            "cntrl" => &[('\0', '\x1F'), ('\x7F', '\x7F')],
            "digit" => &[('0', '9')],
            "graph" => &[('!', '~')],
            "lower" => &[('a', 'z')],
            "print" => &[(' ', '~')],
            "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
            "space" => &[('\t', '\r'), (' ', ' ')],
            "upper" => &[('A', 'Z')],
            "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
            "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
            _ => return None,
        };
        Some(Self::of(ranges, is_negated))
    }

    fn of(ranges: &[(char, char)], is_negated: bool) -> Self {
        let ranges = ranges.iter().map(|(low, high)| (u32::from(*low), u32::from(*high)));
        Self { ranges: ranges.collect(), is_negated }
    }

    /// Adds the runes from `low` to `high`, both included.
    pub(super) fn add_range(&mut self, low: u32, high: u32) {
        self.ranges.push((low, high));
    }

    /// Adds the runes of another set.
    pub(super) fn add(&mut self, other: &Self) {
        if !other.is_negated {
            self.ranges.extend(&other.ranges);
            return;
        }
        // The ranges of the named sets, the only ones that are added, are sorted and disjoint.
        let mut next = 0;
        for (low, high) in &other.ranges {
            if *low > next {
                self.add_range(next, low - 1);
            }
            next = high + 1;
        }
        self.add_range(next, u32::from(char::MAX));
    }

    /// Makes the set hold exactly the runes outside of its ranges.
    pub(super) fn set_negated(&mut self, is_negated: bool) {
        self.is_negated = is_negated;
    }

    /// Reports whether a rune belongs to the set.
    pub(super) fn contains(&self, rune: u32) -> bool {
        self.is_negated != self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&rune))
    }
}
