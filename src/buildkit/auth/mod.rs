//! The client's side of registry authentication in a session.
//!
//! BuildKit asks its client for tokens, so that passwords stay with the client. [`TokenAuthority`]
//! answers the four methods of the session's `Auth` service without knowing gRPC. The caller
//! decides which credential belongs to which repository ([`CredentialSource`]) and how a registry
//! is reached ([`HttpClients`]).

mod credentials;
mod token;
mod token_authority;
mod token_client;

pub use self::{
    credentials::{BasicCredential, BasicError, Credential, CredentialSource},
    token::{Token, TokenError, TokenRequest},
    token_authority::{RandomError, TokenAuthority, registry_host},
    token_client::HttpClients,
};

#[cfg(test)]
mod tests;
