//! The part of DER (ITU-T X.690) that private keys need.

use super::wire;

pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OBJECT_IDENTIFIER: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;

/// The constructed context-specific tag `[number]`.
pub const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Reads the elements of a byte slice one after the other.
pub struct Reader<'a>(wire::Reader<'a>);

impl<'a> Reader<'a> {
    /// Creates a reader of the whole slice.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(wire::Reader::new(bytes))
    }

    /// Reads an element with this tag and returns its content.
    pub fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.u8()? != tag {
            return None;
        }
        let length = match self.0.u8()? {
            short @ 0..=0x7f => usize::from(short),
            // Three bytes of length are enough for 16 MiB.
            long @ 0x81..=0x83 => self
                .0
                .bytes(usize::from(long & 0x7f))?
                .iter()
                .fold(0, |length, &byte| length << 8 | usize::from(byte)),
            _ => return None,
        };
        self.0.bytes(length)
    }

    /// Returns whether the next element has this tag.
    pub fn is_next(&self, tag: u8) -> bool {
        self.0.rest().first() == Some(&tag)
    }

    /// Reads a sequence and returns a reader of its elements.
    pub fn sequence(&mut self) -> Option<Self> {
        self.element(SEQUENCE).map(Self::new)
    }

    /// Reads an integer that is not negative, without leading zeros.
    pub fn unsigned(&mut self) -> Option<&'a [u8]> {
        self.element(INTEGER).filter(|bytes| !bytes.is_empty()).and_then(wire::unsigned)
    }
}
