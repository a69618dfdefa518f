//! Data types of the SSH protocol (RFC 4251, section 5).

/// Reads values from a byte slice. Every method returns `None` if the value is cut short.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Creates a reader of the whole slice.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Reads this many bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    /// Reads a `uint32`.
    pub fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// Reads a `string`.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    /// Reads an `mpint` that is not negative, without leading zeros.
    pub fn unsigned(&mut self) -> Option<&'a [u8]> {
        unsigned(self.string()?)
    }
}

/// Returns a big-endian two's complement integer without leading zeros, or `None` if it is
/// negative. Zero is empty.
pub fn unsigned(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        return None;
    }
    Some(without_leading_zeros(bytes))
}

/// Returns a big-endian number without leading zeros.
pub fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    &bytes[zeros..]
}

/// Appends a `string`.
///
/// # Panics
///
/// If the string is longer than 4 GiB; no key and no signature is.
pub fn put_string(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_length(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

/// Appends an unsigned big-endian number as `mpint`.
pub fn put_unsigned(buffer: &mut Vec<u8>, number: &[u8]) {
    let number = without_leading_zeros(number);
    let needs_sign_byte = number.first().is_some_and(|first| first & 0x80 != 0);
    put_length(buffer, number.len() + usize::from(needs_sign_byte));
    if needs_sign_byte {
        buffer.push(0);
    }
    buffer.extend_from_slice(number);
}

fn put_length(buffer: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("keys and signatures are far shorter than 4 GiB");
    buffer.extend_from_slice(&length.to_be_bytes());
}
