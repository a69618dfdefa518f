//! Reads the format that `dev/patterns` writes.

use std::io::Read;

/// The answers that are not read yet.
pub struct Answers {
    bytes: Vec<u8>,
    position: usize,
}

/// An answer of Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    No,
    Yes,
    Refused,
}

impl Answer {
    /// Returns `None` for a refusal.
    pub fn into_bool(self) -> Option<bool> {
        (self != Self::Refused).then_some(self == Self::Yes)
    }
}

impl Answers {
    pub fn open() -> Self {
        let mut bytes = Vec::new();
        let compressed = include_bytes!("answers.gz").as_slice();
        flate2::read::GzDecoder::new(compressed).read_to_end(&mut bytes).unwrap();
        Self { bytes, position: 0 }
    }

    pub fn is_at_end(&self) -> bool {
        self.position == self.bytes.len()
    }

    pub fn byte(&mut self) -> u8 {
        self.position += 1;
        self.bytes[self.position - 1]
    }

    /// Reads an unsigned varint.
    pub fn number(&mut self) -> usize {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            number |= usize::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    pub fn text(&mut self) -> Vec<u8> {
        let length = self.number();
        self.position += length;
        self.bytes[self.position - length..self.position].to_vec()
    }

    pub fn list(&mut self) -> Vec<Vec<u8>> {
        (0..self.number()).map(|_| self.text()).collect()
    }

    pub fn answer(&mut self) -> Answer {
        match self.byte() {
            0 => Answer::No,
            1 => Answer::Yes,
            2 => Answer::Refused,
            other => panic!("{other} is no answer"),
        }
    }
}
