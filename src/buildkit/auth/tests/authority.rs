//! Keys, and the choice of credentials.

use axum::http::Method;
use ring::signature::{ED25519, UnparsedPublicKey};

use super::{
    super::{BasicCredential, Credential, TokenAuthority, TokenRequest},
    Server, TOKEN, authority, body, password, request,
};

#[tokio::test]
async fn the_requested_repositories_choose_the_credential() {
    let answer = body(r#"{"access_token":"t1"}"#);
    let (server, realm) = Server::start(&[(Method::POST, answer)]).await;
    let credentials = [
        ("registry.example", password("all")),
        ("registry.example/a/x", password("ax")),
        ("registry.example/b/y", password("by")),
    ];
    let authority = authority(&credentials);
    // The first one comes from the first challenge; BuildKit adds it to all others.
    for (scopes, expected) in [
        (&["repository:a/x:pull"][..], "ax"),
        (&["repository:a/x:pull", "repository:b/y:pull"], "by"),
        (&["repository:a/x:pull", "repository:b/y:pull"], "by"),
        (&["repository:a/x:pull", "repository:c/z:pull"], "all"),
        (&["repository:a/x:pull,push", "repository:b/y:pull"], "ax"),
        (&["repository:a/x:pull repository:b/y:pull,push"], "by"),
        (&["registry:catalog:*"], "all"),
        (&[], "all"),
    ] {
        authority.fetch_token(&request(&realm, scopes)).await.unwrap();
        let requests = server.requests();
        let user = format!("username={expected}&");
        assert!(requests[0].contains(&user), "{scopes:?}: {requests:?}");
    }
}

#[tokio::test]
async fn docker_hub_is_docker_io() {
    let (server, realm) = Server::start(&[(Method::POST, body(TOKEN))]).await;
    let authority = authority(&[("docker.io", password("hub"))]);
    let request = TokenRequest {
        host: "registry-1.docker.io".to_owned(),
        ..request(&realm, &["repository:library/alpine:pull"])
    };
    authority.fetch_token(&request).await.unwrap();
    assert!(server.requests()[0].contains("username=hub"));
    let key = |host: &str| authority.public_key(host, b"salt");
    assert_eq!(key("registry-1.docker.io"), key("docker.io"));
    assert!(authority.basic("registry-1.docker.io").unwrap().is_some());
}

#[test]
fn keys_depend_on_session_salt_and_credentials() {
    let credentials = [
        ("registry.example", password("user")),
        ("registry.example/a/x", password("ax")),
        ("token.example", Credential::RegistryToken("fixed".to_owned())),
        ("path.example/a/x", password("user")),
        ("empty.example", Credential::IdentityToken(String::new())),
    ];
    let (one, other) = (authority(&credentials), authority(&credentials));
    let key =
        |authority: &TokenAuthority, host: &str, salt: &[u8]| authority.public_key(host, salt);
    for host in ["registry.example", "token.example", "path.example"] {
        assert_eq!(key(&one, host, b"salt"), key(&one, host, b"salt"));
        assert_ne!(key(&one, host, b"salt"), key(&one, host, b"tlas"));
        assert_ne!(key(&one, host, b"salt"), key(&other, host, b"salt"));
    }
    assert_ne!(key(&one, "registry.example", b"s"), key(&one, "path.example", b"s"));
    // Tokens of anonymous requests may be shared.
    for host in ["anonymous.example", "empty.example"] {
        assert_eq!(key(&one, host, b"salt"), key(&other, host, b"salt"));
        assert_ne!(key(&one, host, b"salt"), key(&one, host, b"tlas"));
    }
}

#[test]
fn the_signature_precedes_the_payload() {
    for credentials in [&[][..], &[("registry.example", password("user"))]] {
        let authority = authority(credentials);
        let key = authority.public_key("registry.example", b"salt");
        assert_eq!(key.len(), 32);
        let signed = authority.sign("registry.example", b"salt", b"payload");
        let (signature, payload) = signed.split_at(64);
        assert_eq!(payload, b"payload");
        UnparsedPublicKey::new(&ED25519, key).verify(payload, signature).unwrap();
    }
}

#[test]
fn basic_authentication_takes_a_password_and_no_token() {
    let authority = authority(&[
        ("registry.example", password("all")),
        ("token.example", Credential::IdentityToken("refresh".to_owned())),
    ]);
    let login = BasicCredential { user: "all".to_owned(), password: "all-hunter2".to_owned() };
    for (host, expected) in
        [("registry.example", Some(login)), ("token.example", None), ("anonymous.example", None)]
    {
        let found = authority.basic(host);
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
        assert!(found == Ok(expected), "{host}");
    }
}
