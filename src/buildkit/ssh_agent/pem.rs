//! Finds the private key in PEM text.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::SshKeyError;

/// A decoded PEM block of a private key.
pub struct Block<'a> {
    /// The words between `BEGIN` and the dashes, such as `RSA PRIVATE KEY`.
    pub label: &'a str,
    /// The decoded content.
    pub content: Zeroizing<Vec<u8>>,
}

/// Returns the first block that holds a private key. Text and other blocks before it are skipped:
/// `openssl ecparam -genkey` writes the curve's parameters first.
pub fn private_key(pem: &[u8]) -> Result<Block<'_>, SshKeyError> {
    let text = str::from_utf8(pem).map_err(|_| SshKeyError::NotAPrivateKey)?;
    let mut lines = text.lines().map(str::trim);
    let label = lines.by_ref().find_map(private_key_label).ok_or(SshKeyError::NotAPrivateKey)?;
    let end = format!("-----END {label}-----");
    let mut encoded = Zeroizing::new(String::with_capacity(text.len()));
    for line in lines {
        if line == end {
            let content = STANDARD.decode(encoded.as_bytes()).map_err(|_| SshKeyError::Damaged)?;
            return Ok(Block { label, content: Zeroizing::new(content) });
        }
        match line.split_once(':') {
            // RFC 1421 headers: "Proc-Type: 4,ENCRYPTED" and "DEK-Info: AES-128-CBC,…".
            Some((name, value)) if name == "Proc-Type" && value.contains("ENCRYPTED") => {
                return Err(SshKeyError::PassphraseProtected);
            }
            Some(_) => {}
            None => encoded.push_str(line),
        }
    }
    Err(SshKeyError::Damaged)
}

fn private_key_label(line: &str) -> Option<&str> {
    let label = line.strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
    label.ends_with("PRIVATE KEY").then_some(label)
}
