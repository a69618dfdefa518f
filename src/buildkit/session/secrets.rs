//! Build secrets.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tonic::{Request, Response, Status};

use crate::buildkit::proto::moby::buildkit::secrets::v1::{
    GetSecretRequest, GetSecretResponse, secrets_server::Secrets,
};

/// BuildKit's own limit (`secretsprovider.MaxSecretSize`).
pub const MAX_SECRET_BYTES: usize = 500 * 1024;

/// The value of a build secret.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// The secret exceeds `MAX_SECRET_BYTES`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("secret too large: BuildKit accepts at most {MAX_SECRET_BYTES} bytes")]
pub struct SecretTooLarge;

impl Secret {
    pub fn new(value: Vec<u8>) -> Result<Self, SecretTooLarge> {
        if value.len() > MAX_SECRET_BYTES { Err(SecretTooLarge) } else { Ok(Self(value)) }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

// Implemented by hand to keep the value out of logs.
impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

pub struct SecretsService(Arc<BTreeMap<String, Secret>>);

impl SecretsService {
    pub fn new(secrets: BTreeMap<String, Secret>) -> Self {
        Self(Arc::new(secrets))
    }
}

#[tonic::async_trait]
impl Secrets for SecretsService {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let secret = self.0.get(&request.get_ref().id);
        // The daemon prefixes this message with the secret's id.
        let secret = secret.ok_or_else(|| Status::not_found("not found"))?;
        Ok(Response::new(GetSecretResponse { data: secret.0.clone() }))
    }
}
