//! The private key formats of PEM files: PKCS#1, SEC 1 and PKCS#8.

use super::{
    SshKeyError, der,
    key::{Curve, KeyPair, RsaNumbers},
    wire::without_leading_zeros,
};

const RSA_OID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_OID: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519_OID: &[u8] = &[0x2b, 0x65, 0x70];
const P256_OID: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384_OID: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521_OID: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];

/// Reads an `RSAPrivateKey` (RFC 8017, appendix A.1.2).
pub fn pkcs1(content: &[u8]) -> Result<KeyPair, SshKeyError> {
    let fields = || {
        let mut key = der::Reader::new(content).sequence()?;
        let is_multi_prime = !key.unsigned()?.is_empty();
        let numbers = RsaNumbers {
            n: key.unsigned()?,
            e: key.unsigned()?,
            d: key.unsigned()?,
            p: key.unsigned()?,
            q: key.unsigned()?,
            q_inverse: {
                // The exponents of the primes are computed, as for OpenSSH's format.
                let _exponents = (key.unsigned()?, key.unsigned()?);
                key.unsigned()?
            },
        };
        Some((is_multi_prime, numbers))
    };
    match fields() {
        Some((false, numbers)) => KeyPair::rsa(&numbers),
        Some((true, _)) => {
            Err(SshKeyError::Unsupported("an RSA key of more than two primes".to_owned()))
        }
        None => Err(SshKeyError::Damaged),
    }
}

/// Reads an `ECPrivateKey` (RFC 5915). In PKCS#8 the curve may be named outside of it.
pub fn sec1(content: &[u8], outer_curve: Option<Curve>) -> Result<KeyPair, SshKeyError> {
    let fields = || {
        let mut key = der::Reader::new(content).sequence()?;
        let _version = key.unsigned()?;
        let scalar = without_leading_zeros(key.element(der::OCTET_STRING)?);
        let mut parameters = None;
        if key.is_next(der::context(0)) {
            parameters = Some(key.element(der::context(0))?);
        }
        let mut public = None;
        if key.is_next(der::context(1)) {
            let bits = der::Reader::new(key.element(der::context(1))?).element(der::BIT_STRING)?;
            // The first byte counts unused bits, of which a point has none.
            public = Some(bits.strip_prefix(&[0])?);
        }
        Some((scalar, parameters, public))
    };
    let (scalar, parameters, public) = fields().ok_or(SshKeyError::Damaged)?;
    let curve = match (outer_curve, parameters) {
        (Some(curve), _) => curve,
        (None, Some(parameters)) => named_curve(&mut der::Reader::new(parameters))?,
        (None, None) => return Err(SshKeyError::Damaged),
    };
    let public = public
        .ok_or_else(|| SshKeyError::Unsupported("an EC key without its public key".to_owned()))?;
    KeyPair::ecdsa(curve, scalar, public)
}

fn named_curve(parameters: &mut der::Reader<'_>) -> Result<Curve, SshKeyError> {
    match parameters.element(der::OBJECT_IDENTIFIER) {
        Some(P256_OID) => Ok(Curve::P256),
        Some(P384_OID) => Ok(Curve::P384),
        Some(P521_OID) => Err(SshKeyError::Unsupported("an EC key of the curve P-521".to_owned())),
        Some(_) => Err(SshKeyError::Unsupported("an EC key of an unknown curve".to_owned())),
        None => Err(SshKeyError::Unsupported("an EC key with explicit parameters".to_owned())),
    }
}

/// Reads a `PrivateKeyInfo` (RFC 5958).
pub fn pkcs8(content: &[u8]) -> Result<KeyPair, SshKeyError> {
    let fields = || {
        let mut info = der::Reader::new(content).sequence()?;
        let _version = info.unsigned()?;
        let mut algorithm = info.sequence()?;
        let oid = algorithm.element(der::OBJECT_IDENTIFIER)?;
        Some((oid, algorithm, info.element(der::OCTET_STRING)?))
    };
    let (oid, mut parameters, key) = fields().ok_or(SshKeyError::Damaged)?;
    match oid {
        RSA_OID => pkcs1(key),
        EC_OID => sec1(key, Some(named_curve(&mut parameters)?)),
        ED25519_OID => {
            let seed = der::Reader::new(key).element(der::OCTET_STRING);
            KeyPair::ed25519(seed.ok_or(SshKeyError::Damaged)?, None)
        }
        _ => Err(SshKeyError::Unsupported("a PKCS#8 key of another algorithm".to_owned())),
    }
}
