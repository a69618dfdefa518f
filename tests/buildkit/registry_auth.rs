//! Registry authentication: which secrets reach the daemon, and which stay in the client.

use std::{error::Error, sync::Arc};

use ocibuild::buildkit::{
    SolveError,
    auth::{BasicError, Credential, CredentialSource, HttpClients, TokenAuthority},
};

use crate::{
    build::{Build, Built},
    context::Context,
    daemon::connect,
    image::Image,
    registry::{BasicRegistry, PASSWORD, REPOSITORY, TokenRegistry, USER},
};

const USER_AGENT: &str = "tests-of-the-client";

/// One password for every registry.
struct Login(&'static str);

impl Login {
    fn password(&self) -> Credential {
        Credential::Password { user: USER.to_owned(), password: self.0.to_owned() }
    }

    fn authority(self) -> Arc<TokenAuthority> {
        Arc::new(TokenAuthority::new(Arc::new(self), Arc::new(Plain)).unwrap())
    }
}

impl CredentialSource for Login {
    fn credential(&self, _: &str, _: Option<&str>) -> Option<Credential> {
        Some(self.password())
    }

    fn all(&self, _: &str) -> Vec<Credential> {
        vec![self.password()]
    }

    fn basic(&self, _: &str) -> Result<Option<Credential>, BasicError> {
        Ok(Some(self.password()))
    }
}

/// Different passwords for two repositories of a registry.
struct Ambiguous;

impl CredentialSource for Ambiguous {
    fn credential(&self, _: &str, _: Option<&str>) -> Option<Credential> {
        None
    }

    fn all(&self, _: &str) -> Vec<Credential> {
        Vec::new()
    }

    fn basic(&self, host: &str) -> Result<Option<Credential>, BasicError> {
        let (first, second) = ("team/app".to_owned(), "team/base".to_owned());
        Err(BasicError::Ambiguous { host: host.to_owned(), first, second })
    }
}

/// Reaches every registry without TLS.
struct Plain;

impl HttpClients for Plain {
    fn builder(&self, _: &str) -> Result<reqwest::ClientBuilder, Box<dyn Error + Send + Sync>> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(reqwest::Client::builder().no_proxy().user_agent(USER_AGENT))
    }

    fn is_plain_http(&self, _: &str) -> bool {
        true
    }
}

/// Makes an image that the daemon does not have.
fn image() -> (Image, String) {
    let content = format!("{:x}", fastrand::u128(..));
    (Image::with_file("file", content.as_bytes()), content)
}

/// Pulls the image of a registry.
async fn pull(host: &str, authority: Option<Arc<TokenAuthority>>) -> Built {
    let context = Context::new(&format!("FROM {host}/{REPOSITORY}:v1\nCOPY Dockerfile /\n"));
    let mut build = Build::of(context.path()).export("tar", &[]);
    build.solve.services.auth = authority;
    build.run(&connect().await).await
}

async fn assert_password_stays(accepts_oauth: bool) {
    let (image, content) = image();
    let registry = TokenRegistry::start(image, accepts_oauth).await;
    let built = pull(registry.host(), Some(Login(PASSWORD).authority())).await;
    assert_eq!(built.tree().text("file"), content);
    let (tokens, content): (Vec<_>, Vec<_>) =
        registry.seen().into_iter().partition(|seen| seen.path == "/token");
    assert!(!tokens.is_empty());
    assert!(tokens.iter().all(|seen| seen.user_agent == USER_AGENT), "{tokens:?}");
    assert!(content.len() >= 3, "a manifest, a configuration and a layer: {content:?}");
    for seen in content {
        assert_ne!(seen.user_agent, USER_AGENT, "the daemon reads images itself: {seen:?}");
        let is_token = seen.authorization.starts_with("Bearer ");
        assert!(seen.authorization.is_empty() || is_token, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_fetches_tokens_by_oauth_and_keeps_the_password() {
    assert_password_stays(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_fetches_tokens_without_oauth_and_keeps_the_password() {
    assert_password_stays(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_the_token_server_refuses_fails_the_build() {
    let registry = TokenRegistry::start(image().0, true).await;
    let failure = pull(registry.host(), Some(Login("wrong").authority())).await.failure();
    let expected = "unexpected status from the token server: 401 to the credential";
    assert!(failure.message.contains(expected), "{failure:?}");
    assert!(failure.message.contains(registry.host()), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_one_build_do_not_serve_a_build_without_credentials() {
    let registry = TokenRegistry::start(image().0, true).await;
    pull(registry.host(), Some(Login(PASSWORD).authority())).await.response();
    let failure = pull(registry.host(), None).await.failure();
    assert!(failure.message.contains("401"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pushed_and_pulled_with_basic_authentication() {
    let registry = BasicRegistry::start();
    let context = Context::new("FROM scratch\nCOPY file /\n");
    let content = format!("{:x}", fastrand::u128(..));
    context.write("file", &content);
    let name = format!("{}/{REPOSITORY}:v1", registry.host);
    let push = async |login: Login| {
        let attributes = [("name", name.as_str()), ("push", "true")];
        let mut build = Build::of(context.path()).consume("image", &attributes, None);
        build.solve.services.auth = Some(login.authority());
        build.run(&connect().await).await
    };
    let failure = push(Login("wrong")).await.failure();
    assert!(failure.message.contains("401"), "{failure:?}");
    let pushed = push(Login(PASSWORD)).await;
    assert!(pushed.response()["containerimage.digest"].starts_with("sha256:"));

    let pulled = pull(&registry.host, Some(Login(PASSWORD).authority())).await;
    assert_eq!(pulled.tree().text("file"), content);
    let failure = pull(&registry.host, Some(Login("wrong").authority())).await.failure();
    assert!(failure.message.contains("401"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_different_repositories_are_not_mixed_up_with_basic_authentication() {
    let registry = BasicRegistry::start();
    let authority = TokenAuthority::new(Arc::new(Ambiguous), Arc::new(Plain)).unwrap();
    match pull(&registry.host, Some(Arc::new(authority))).await.error() {
        SolveError::Credentials(BasicError::Ambiguous { host, .. }) => {
            assert_eq!(host, registry.host);
        }
        other => panic!("{other:?}"),
    }
}
