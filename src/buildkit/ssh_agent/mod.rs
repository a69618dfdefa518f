//! A read-only SSH agent for private keys held in memory.
//!
//! A build step with an SSH mount speaks to this agent through the session. The agent lists its
//! keys and signs with them. It refuses every request that would change it. It knows nothing about
//! gRPC: the caller hands it the stream.

mod asn1;
mod der;
mod key;
mod openssh;
mod pem;
mod protocol;
#[cfg(test)]
mod tests;
mod wire;

use std::{io, sync::Arc};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use self::key::{SshKey, SshKeyError};

/// The longest request, as in OpenSSH's agent.
pub const MAX_MESSAGE_BYTES: u32 = 256 << 10;

/// A read-only SSH agent. Clones share their keys.
#[derive(Clone, Debug)]
pub struct SshAgent {
    keys: Arc<[SshKey]>,
}

impl SshAgent {
    /// Creates an agent that offers the keys in this order.
    pub fn new(keys: Vec<SshKey>) -> Self {
        Self { keys: keys.into() }
    }

    /// Answers the requests of one connection until the peer closes it.
    ///
    /// Returns an error if the connection fails or if the peer breaks the framing of messages: an
    /// empty message, one longer than [`MAX_MESSAGE_BYTES`], or one that ends early. A well-framed
    /// request that makes no sense is answered with a failure instead.
    pub async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        while let Some(request) = read_message(&mut stream).await? {
            let reply = protocol::reply(&self.keys, &request);
            let mut message = Vec::with_capacity(4 + reply.len());
            wire::put_string(&mut message, &reply);
            stream.write_all(&message).await?;
            stream.flush().await?;
        }
        Ok(())
    }
}

/// Returns the next message without its length, or `None` at the end of the stream.
async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = u32::from_be_bytes(length);
    if length == 0 || length > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "invalid SSH agent message: length {length} is not between 1 and \
                 {MAX_MESSAGE_BYTES} bytes"
            ),
        ));
    }
    // The buffer grows with what arrives, not with what the peer announces.
    let mut message = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut message).await?;
    if message.len() as u64 == u64::from(length) {
        Ok(Some(message))
    } else {
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("truncated SSH agent message: {} of {length} bytes", message.len()),
        ))
    }
}
