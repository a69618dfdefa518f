//! Private keys: reading them, and signing with them.

use std::{fmt, ops::RangeInclusive};

use num_bigint::BigUint;
use ring::{
    rand::SystemRandom,
    rsa::{KeyPairComponents, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
        RsaKeyPair,
    },
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    asn1, openssh, pem,
    wire::{put_string, put_unsigned},
};

const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 4096;
/// The public exponents that `ring` accepts.
const RSA_EXPONENTS: RangeInclusive<u64> = 65537..=(1 << 33) - 1;

/// Why a private key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SshKeyError {
    /// The text holds no private key.
    #[error("invalid SSH key: not a private key in OpenSSH or PEM format")]
    NotAPrivateKey,
    /// The key is encrypted.
    #[error("the SSH key is passphrase-protected; remove the passphrase with ssh-keygen -p -N ''")]
    PassphraseProtected,
    /// The text begins as a private key, but its content is cut short or inconsistent.
    #[error("invalid SSH key: the private key is damaged")]
    Damaged,
    /// The key is of a kind that the agent cannot sign with.
    #[error(
        "unsupported SSH key: {0}; use an Ed25519, an ECDSA P-256 or P-384, or an RSA key of 2048, \
         3072 or 4096 bits"
    )]
    Unsupported(String),
    /// The RSA key is shorter than 2048 or longer than 4096 bits.
    #[error("unsupported SSH key: an RSA key of {bits} bits; use 2048, 3072 or 4096 bits")]
    RsaKeySize {
        /// The size of the modulus.
        bits: usize,
    },
}

/// A private key that can sign.
pub struct SshKey {
    pair: KeyPair,
    public_key: Vec<u8>,
}

impl SshKey {
    /// Reads an unencrypted private key in OpenSSH format, or in PEM format as PKCS#1, SEC 1 or
    /// PKCS#8.
    pub fn parse(pem: &[u8]) -> Result<Self, SshKeyError> {
        let block = pem::private_key(pem)?;
        let pair = match block.label {
            "OPENSSH PRIVATE KEY" => openssh::parse(&block.content),
            "RSA PRIVATE KEY" => asn1::pkcs1(&block.content),
            "EC PRIVATE KEY" => asn1::sec1(&block.content, None),
            "PRIVATE KEY" => asn1::pkcs8(&block.content),
            "ENCRYPTED PRIVATE KEY" => Err(SshKeyError::PassphraseProtected),
            label => Err(SshKeyError::Unsupported(format!("{label:?}"))),
        }?;
        let public_key = pair.public_key();
        Ok(Self { pair, public_key })
    }

    /// Returns the public key in SSH's wire format.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Returns the SSH name of the key's kind, such as `ssh-ed25519`.
    pub fn kind(&self) -> &'static str {
        self.pair.kind()
    }

    /// Signs a message and returns the signature in SSH's wire format. Returns `None` if the key
    /// is an RSA key and no hash is given, which asks for SHA-1, or if signing fails.
    pub(super) fn sign(&self, message: &[u8], rsa_hash: Option<RsaHash>) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let mut signature = Vec::new();
        match &self.pair {
            KeyPair::Ed25519(pair) => {
                put_string(&mut signature, self.kind().as_bytes());
                put_string(&mut signature, pair.sign(message).as_ref());
            }
            KeyPair::Ecdsa { pair, .. } => {
                let fixed = pair.sign(&random, message).ok()?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut numbers = Vec::new();
                put_unsigned(&mut numbers, r);
                put_unsigned(&mut numbers, s);
                put_string(&mut signature, self.kind().as_bytes());
                put_string(&mut signature, &numbers);
            }
            KeyPair::Rsa(pair) => {
                let (name, padding) = match rsa_hash? {
                    RsaHash::Sha256 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    RsaHash::Sha512 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                };
                let mut bytes = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, message, &mut bytes).ok()?;
                put_string(&mut signature, name.as_bytes());
                put_string(&mut signature, &bytes);
            }
        }
        Some(signature)
    }
}

impl fmt::Debug for SshKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SshKey({})", self.kind())
    }
}

/// The hash of an RSA signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RsaHash {
    Sha256,
    Sha512,
}

/// An elliptic curve of ECDSA keys.
#[derive(Clone, Copy)]
pub(super) enum Curve {
    P256,
    P384,
}

impl Curve {
    /// Returns the curve's name in SSH.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
        }
    }

    const fn scalar_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    const fn algorithm(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }
}

/// The numbers of an RSA key, big-endian and without leading zeros.
pub(super) struct RsaNumbers<'a> {
    pub(super) n: &'a [u8],
    pub(super) e: &'a [u8],
    pub(super) d: &'a [u8],
    pub(super) p: &'a [u8],
    pub(super) q: &'a [u8],
    /// The inverse of `q` modulo `p`.
    pub(super) q_inverse: &'a [u8],
}

/// A key pair of `ring`.
pub(super) enum KeyPair {
    Ed25519(Ed25519KeyPair),
    Ecdsa { curve: Curve, pair: EcdsaKeyPair },
    Rsa(Box<RsaKeyPair>),
}

impl KeyPair {
    /// Creates an Ed25519 key. A public key, if given, must belong to the seed.
    pub(super) fn ed25519(seed: &[u8], public: Option<&[u8]>) -> Result<Self, SshKeyError> {
        let pair = match public {
            Some(public) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
            None => Ed25519KeyPair::from_seed_unchecked(seed),
        };
        pair.map(Self::Ed25519).map_err(|_| SshKeyError::Damaged)
    }

    /// Creates an ECDSA key from its private number and its uncompressed public point.
    pub(super) fn ecdsa(curve: Curve, scalar: &[u8], public: &[u8]) -> Result<Self, SshKeyError> {
        let missing = curve.scalar_bytes().checked_sub(scalar.len()).ok_or(SshKeyError::Damaged)?;
        let mut padded = Zeroizing::new(vec![0; curve.scalar_bytes()]);
        padded[missing..].copy_from_slice(scalar);
        EcdsaKeyPair::from_private_key_and_public_key(
            curve.algorithm(),
            &padded,
            public,
            &SystemRandom::new(),
        )
        .map(|pair| Self::Ecdsa { curve, pair })
        .map_err(|_| SshKeyError::Damaged)
    }

    /// Creates an RSA key.
    pub(super) fn rsa(numbers: &RsaNumbers<'_>) -> Result<Self, SshKeyError> {
        let leading_zeros = numbers.n.first().map_or(0, |first| first.leading_zeros() as usize);
        let bits = numbers.n.len() * 8 - leading_zeros;
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
            return Err(SshKeyError::RsaKeySize { bits });
        }
        // `ring` takes only primes whose size is a multiple of 512 bits.
        if !bits.is_multiple_of(1024) {
            let kind = format!("an RSA key of {bits} bits, which is not a multiple of 1024");
            return Err(SshKeyError::Unsupported(kind));
        }
        let exponent = numbers.e.iter().try_fold(0_u64, |exponent, &byte| {
            exponent.checked_mul(256).map(|high| high | u64::from(byte))
        });
        if !exponent.is_some_and(|exponent| RSA_EXPONENTS.contains(&exponent)) {
            let kind = "an RSA key whose public exponent is not between 65537 and 2^33 - 1";
            return Err(SshKeyError::Unsupported(kind.to_owned()));
        }
        let components = KeyPairComponents {
            public_key: PublicKeyComponents { n: numbers.n, e: numbers.e },
            d: numbers.d,
            p: numbers.p,
            q: numbers.q,
            dP: &*crt_exponent(numbers.d, numbers.p)?,
            dQ: &*crt_exponent(numbers.d, numbers.q)?,
            qInv: numbers.q_inverse,
        };
        RsaKeyPair::from_components(&components)
            .map(|pair| Self::Rsa(Box::new(pair)))
            .map_err(|_| SshKeyError::Damaged)
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "ssh-ed25519",
            Self::Ecdsa { curve: Curve::P256, .. } => "ecdsa-sha2-nistp256",
            Self::Ecdsa { curve: Curve::P384, .. } => "ecdsa-sha2-nistp384",
            Self::Rsa(_) => "ssh-rsa",
        }
    }

    fn public_key(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_string(&mut bytes, self.kind().as_bytes());
        match self {
            Self::Ed25519(pair) => put_string(&mut bytes, pair.public_key().as_ref()),
            Self::Ecdsa { curve, pair } => {
                put_string(&mut bytes, curve.name().as_bytes());
                put_string(&mut bytes, pair.public_key().as_ref());
            }
            Self::Rsa(pair) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                put_unsigned(&mut bytes, &public.e);
                put_unsigned(&mut bytes, &public.n);
            }
        }
        bytes
    }
}

/// Returns `d mod (prime - 1)`, which OpenSSH's format leaves out and PKCS#1 repeats.
fn crt_exponent(d: &[u8], prime: &[u8]) -> Result<Zeroizing<Vec<u8>>, SshKeyError> {
    if d.len() > MAX_RSA_BITS / 8 || prime.len() > MAX_RSA_BITS / 8 {
        return Err(SshKeyError::Damaged);
    }
    let prime = BigUint::from_bytes_be(prime);
    let one = BigUint::from(1_u8);
    if prime <= one {
        return Err(SshKeyError::Damaged);
    }
    Ok(Zeroizing::new((BigUint::from_bytes_be(d) % (prime - one)).to_bytes_be()))
}
