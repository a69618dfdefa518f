//! Requests and replies of the SSH agent protocol (draft-ietf-sshm-ssh-agent).

use super::{
    SshKey,
    key::RsaHash,
    wire::{Reader, put_string},
};

pub const FAILURE: u8 = 5;
pub const REQUEST_IDENTITIES: u8 = 11;
pub const IDENTITIES_ANSWER: u8 = 12;
pub const SIGN_REQUEST: u8 = 13;
pub const SIGN_RESPONSE: u8 = 14;

pub const RSA_SHA2_256: u32 = 2;
pub const RSA_SHA2_512: u32 = 4;

/// Returns the reply to a request, both without their lengths. Every request but listing keys and
/// signing fails, so that a build step cannot change the agent.
pub fn reply(keys: &[SshKey], request: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(request);
    let reply = match reader.u8() {
        Some(REQUEST_IDENTITIES) if reader.is_empty() => Some(identities(keys)),
        Some(SIGN_REQUEST) => sign(keys, reader),
        _ => None,
    };
    reply.unwrap_or_else(|| vec![FAILURE])
}

/// Lists the public keys. Omits comments, which often contain names of people or machines.
fn identities(keys: &[SshKey]) -> Vec<u8> {
    let mut reply = vec![IDENTITIES_ANSWER];
    let count = u32::try_from(keys.len()).expect("memory cannot hold 2^32 keys");
    reply.extend_from_slice(&count.to_be_bytes());
    for key in keys {
        put_string(&mut reply, key.public_key());
        put_string(&mut reply, b"");
    }
    reply
}

fn sign(keys: &[SshKey], mut request: Reader<'_>) -> Option<Vec<u8>> {
    let public_key = request.string()?;
    let message = request.string()?;
    let flags = request.u32()?;
    if !request.is_empty() || flags & !(RSA_SHA2_256 | RSA_SHA2_512) != 0 {
        return None;
    }
    // OpenSSH's agent also prefers SHA-256 if both are allowed.
    let rsa_hash = if flags & RSA_SHA2_256 != 0 {
        Some(RsaHash::Sha256)
    } else if flags & RSA_SHA2_512 != 0 {
        Some(RsaHash::Sha512)
    } else {
        None
    };
    let key = keys.iter().find(|key| key.public_key() == public_key)?;
    let mut reply = vec![SIGN_RESPONSE];
    put_string(&mut reply, &key.sign(message, rsa_hash)?);
    Some(reply)
}
