//! The private key format of OpenSSH (`PROTOCOL.key` in its sources).

use super::{
    SshKeyError,
    key::{Curve, KeyPair, RsaNumbers},
    wire::Reader,
};

const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Reads a file with one private key and no passphrase.
pub fn parse(content: &[u8]) -> Result<KeyPair, SshKeyError> {
    let content = content.strip_prefix(MAGIC).ok_or(SshKeyError::Damaged)?;
    let mut reader = Reader::new(content);
    let private = private_section(&mut reader).ok_or(SshKeyError::Damaged)?;
    match private {
        Section::Encrypted => Err(SshKeyError::PassphraseProtected),
        Section::Keys { count: 1, bytes } => key(bytes),
        Section::Keys { count, .. } => {
            Err(SshKeyError::Unsupported(format!("a file of {count} private keys")))
        }
    }
}

enum Section<'a> {
    Encrypted,
    Keys { count: u32, bytes: &'a [u8] },
}

fn private_section<'a>(reader: &mut Reader<'a>) -> Option<Section<'a>> {
    let cipher = reader.string()?;
    let _kdf = reader.string()?;
    let _kdf_options = reader.string()?;
    let count = reader.u32()?;
    if cipher != b"none" {
        return Some(Section::Encrypted);
    }
    if count == 1 {
        let _public_key = reader.string()?;
        let bytes = reader.string()?;
        return reader.is_empty().then_some(Section::Keys { count, bytes });
    }
    Some(Section::Keys { count, bytes: &[] })
}

fn key(bytes: &[u8]) -> Result<KeyPair, SshKeyError> {
    let mut reader = Reader::new(bytes);
    let kind = kind(&mut reader).ok_or(SshKeyError::Damaged)?;
    let pair = match kind {
        b"ssh-ed25519" => ed25519(&mut reader)?,
        b"ssh-rsa" => rsa(&mut reader)?,
        b"ecdsa-sha2-nistp256" => ecdsa(&mut reader, Curve::P256)?,
        b"ecdsa-sha2-nistp384" => ecdsa(&mut reader, Curve::P384)?,
        other => {
            let name: String = String::from_utf8_lossy(other).chars().take(64).collect();
            return Err(SshKeyError::Unsupported(format!("{name:?}")));
        }
    };
    let _comment = reader.string().ok_or(SshKeyError::Damaged)?;
    let is_padding = (1..=u8::MAX).zip(reader.rest()).all(|(expected, &byte)| expected == byte);
    if is_padding { Ok(pair) } else { Err(SshKeyError::Damaged) }
}

fn kind<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let first_check = reader.u32()?;
    let second_check = reader.u32()?;
    if first_check == second_check { reader.string() } else { None }
}

fn ed25519(reader: &mut Reader<'_>) -> Result<KeyPair, SshKeyError> {
    let mut fields = || {
        let public = reader.string()?;
        let (seed, repeated) = reader.string()?.split_at_checked(32)?;
        (public == repeated).then_some((seed, public))
    };
    let (seed, public) = fields().ok_or(SshKeyError::Damaged)?;
    KeyPair::ed25519(seed, Some(public))
}

fn ecdsa(reader: &mut Reader<'_>, curve: Curve) -> Result<KeyPair, SshKeyError> {
    let mut fields = || {
        let name = reader.string()?;
        let public = reader.string()?;
        let scalar = reader.unsigned()?;
        (name == curve.name().as_bytes()).then_some((scalar, public))
    };
    let (scalar, public) = fields().ok_or(SshKeyError::Damaged)?;
    KeyPair::ecdsa(curve, scalar, public)
}

fn rsa(reader: &mut Reader<'_>) -> Result<KeyPair, SshKeyError> {
    let mut fields = || {
        Some(RsaNumbers {
            n: reader.unsigned()?,
            e: reader.unsigned()?,
            d: reader.unsigned()?,
            q_inverse: reader.unsigned()?,
            p: reader.unsigned()?,
            q: reader.unsigned()?,
        })
    };
    KeyPair::rsa(&fields().ok_or(SshKeyError::Damaged)?)
}
