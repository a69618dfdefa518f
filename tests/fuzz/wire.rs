//! Protobuf messages whose bytes are damaged.

use proptest::{prelude::*, sample::Index};

/// Changes of an encoded message.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    cut: Option<Index>,
    replaced: Vec<(Index, u8)>,
    inserted: Option<(Index, Vec<u8>)>,
}

impl Damage {
    pub fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some((at, more)) = &self.inserted {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, more.iter().copied());
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let length = bytes.len();
        for (at, byte) in self.replaced.iter().filter(|_| length > 0) {
            bytes[at.index(length)] = *byte;
        }
        bytes
    }
}

/// Bytes that matter to protobuf: field tags, lengths, and the ends of varints.
const BYTES: &[u8] = b"\x00\x08\x0a\x10\x12\x18\x1a\x22\x32\x42\x0b\x0c\x0d\x7f\x80\xff\x01";

fn a_byte() -> impl Strategy<Value = u8> {
    prop_oneof![3 => prop::sample::select(BYTES), 1 => any::<u8>()]
}

/// No damage for half of the messages, a few changes for the others.
pub fn damage() -> impl Strategy<Value = Damage> {
    let cut = prop::option::weighted(0.2, any::<Index>());
    let replaced = prop::collection::vec((any::<Index>(), a_byte()), 0..3);
    let inserted = (any::<Index>(), prop::collection::vec(a_byte(), 1..12));
    let damaged = (cut, replaced, prop::option::weighted(0.3, inserted))
        .prop_map(|(cut, replaced, inserted)| Damage { cut, replaced, inserted });
    prop_oneof![Just(Damage::default()), damaged]
}

/// Arbitrary bytes, half of them those that matter to protobuf.
pub fn noise(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(a_byte(), 0..most),
        prop::collection::vec(any::<u8>(), 0..most),
    ]
}
