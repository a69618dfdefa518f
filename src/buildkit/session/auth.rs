//! Registry authentication, answered by a [`TokenAuthority`].

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};

use super::FirstError;
use crate::buildkit::{
    auth::{TokenAuthority, TokenError, TokenRequest},
    error::SolveError,
    proto::moby::filesync::v1::{
        CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
        GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
        VerifyTokenAuthorityResponse, auth_server::Auth,
    },
};

pub struct AuthService {
    authority: Option<Arc<TokenAuthority>>,
    first_error: FirstError,
}

impl AuthService {
    pub fn new(authority: Option<Arc<TokenAuthority>>, first_error: FirstError) -> Self {
        Self { authority, first_error }
    }

    /// Without an authority the daemon fetches anonymous tokens itself.
    fn authority(&self) -> Result<&TokenAuthority, Status> {
        self.authority.as_deref().ok_or_else(|| Status::unavailable("no token authority"))
    }
}

/// BuildKit passes on the code and the text.
fn status(error: &TokenError) -> Status {
    let code = match error {
        TokenError::Unauthorized { .. } => Code::Unauthenticated,
        _ => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let Some(authority) = self.authority.as_deref() else {
            return Ok(Response::new(CredentialsResponse::default()));
        };
        let credential = authority.basic(&request.get_ref().host).map_err(|error| {
            let status = Status::failed_precondition(error.to_string());
            self.first_error.record(SolveError::Credentials(error));
            status
        })?;
        let response = credential.map_or_else(CredentialsResponse::default, |credential| {
            CredentialsResponse { username: credential.user, secret: credential.password }
        });
        Ok(Response::new(response))
    }

    async fn fetch_token(
        &self,
        request: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        let request = request.into_inner();
        let request = TokenRequest {
            client_id: request.client_id,
            host: request.host,
            realm: request.realm,
            service: request.service,
            scopes: request.scopes,
        };
        let token = self.authority()?.fetch_token(&request).await;
        let token = token.map_err(|error| status(&error))?;
        Ok(Response::new(FetchTokenResponse {
            token: token.token,
            expires_in: token.expires_in,
            issued_at: token.issued_at.unwrap_or_default(),
        }))
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let request = request.get_ref();
        let public_key = self.authority()?.public_key(&request.host, &request.salt);
        Ok(Response::new(GetTokenAuthorityResponse { public_key }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let request = request.get_ref();
        let signed = self.authority()?.sign(&request.host, &request.salt, &request.payload);
        Ok(Response::new(VerifyTokenAuthorityResponse { signed }))
    }
}
