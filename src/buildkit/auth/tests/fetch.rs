//! Requests to the token server.

use std::time::Duration;

use axum::http::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    super::{Credential, Token, TokenError, token_client::Limits},
    Answer, Server, TOKEN, authority, authority_with, body, limits, password, request,
};

#[tokio::test]
async fn an_anonymous_request_is_a_get() {
    let (server, realm) = Server::start(&[(Method::GET, body(TOKEN))]).await;
    let authority = authority(&[("other.example", password("user"))]);
    let request = request(&realm, &["repository:a/x:pull", "repository:b/y:pull,push"]);
    let token = authority.fetch_token(&request).await.unwrap();
    let issued_at = Some(1_795_687_200);
    assert_eq!(token, Token { token: "t0".to_owned(), expires_in: 300, issued_at });
    assert_eq!(
        server.requests(),
        ["GET /token?a=b&service=a+service&scope=repository%3Aa%2Fx%3Apull\
             &scope=repository%3Ab%2Fy%3Apull%2Cpush"]
    );
    assert!(!format!("{token:?}").contains("t0"), "{token:?}");
}

#[tokio::test]
async fn a_credential_is_posted_as_a_form() {
    let answer = body(r#"{"access_token":"t1"}"#);
    let (server, realm) = Server::start(&[(Method::POST, answer)]).await;
    let identity = Credential::IdentityToken("refresh".to_owned());
    for (credential, expected) in [
        (password("user"), "grant_type=password&username=user&password=user-hunter2"),
        (identity, "grant_type=refresh_token&refresh_token=refresh"),
    ] {
        let authority = authority(&[("registry.example", credential)]);
        let scopes = ["repository:a/x:pull", "repository:b/y:pull"];
        let token = authority.fetch_token(&request(&realm, &scopes)).await.unwrap();
        let expected_token = Token { token: "t1".to_owned(), expires_in: 60, issued_at: None };
        assert_eq!(token, expected_token);
        let form = format!(
            "POST /token?a=b service=a+service&client_id=buildkit-client\
             &scope=repository%3Aa%2Fx%3Apull+repository%3Ab%2Fy%3Apull&{expected}"
        );
        assert_eq!(server.requests(), [form]);
    }
}

#[tokio::test]
async fn a_server_without_oauth_gets_basic_authentication() {
    let identity = || Credential::IdentityToken("refresh".to_owned());
    for (credential, status, falls_back) in [
        (password("user"), 401, true),
        (password("user"), 404, true),
        (password("user"), 405, true),
        (password("user"), 400, false),
        (password("user"), 403, false),
        (identity(), 401, true),
        (identity(), 404, true),
        (identity(), 405, false),
    ] {
        let answers = [(Method::POST, Answer::Status(status)), (Method::GET, body(TOKEN))];
        let (server, realm) = Server::start(&answers).await;
        let authority = authority(&[("registry.example", credential.clone())]);
        let token = authority.fetch_token(&request(&realm, &["repository:a/x:pull"])).await;
        assert_eq!(token.is_ok(), falls_back, "{status}");
        let requests = server.requests();
        assert!(requests[0].starts_with("POST /token?a=b "), "{requests:?}");
        let basic = match credential {
            Credential::Password { .. } => "dXNlcjp1c2VyLWh1bnRlcjI=",
            _ => "OnJlZnJlc2g=",
        };
        let get = format!(
            "GET /token?a=b&service=a+service&scope=repository%3Aa%2Fx%3Apull Basic {basic}"
        );
        assert_eq!(requests.get(1), falls_back.then_some(&get), "{status}");
    }
}

#[tokio::test]
async fn a_registry_token_needs_no_request() {
    let authority =
        authority(&[("registry.example", Credential::RegistryToken("fixed".to_owned()))]);
    let token = authority.fetch_token(&request("not a URL", &[])).await.unwrap();
    assert_eq!(token, Token { token: "fixed".to_owned(), expires_in: 60, issued_at: None });
}

#[tokio::test]
async fn server_errors_and_broken_connections_are_retried() {
    let answers = [
        (Method::GET, Answer::Status(503)),
        (Method::GET, Answer::Status(500)),
        (Method::GET, body(TOKEN)),
    ];
    let (server, realm) = Server::start(&answers).await;
    authority(&[]).fetch_token(&request(&realm, &[])).await.unwrap();
    assert_eq!(server.requests().len(), 3);

    let (server, realm) = Server::start(&[(Method::GET, Answer::Status(503))]).await;
    let error = authority(&[]).fetch_token(&request(&realm, &[])).await.unwrap_err();
    assert_eq!(error, TokenError::Status { host: "registry.example".to_owned(), status: 503 });
    assert_eq!(server.requests().len(), 3);

    // A server that closes the first connection and breaks off the second response.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let realm = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        drop(listener.accept().await.unwrap());
        for length in [TOKEN.len() + 1, TOKEN.len()] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{TOKEN}");
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    });
    authority(&[]).fetch_token(&request(&realm, &[])).await.unwrap();
}

#[tokio::test]
async fn lasting_errors_are_not_retried() {
    let (server, realm) = Server::start(&[(Method::GET, Answer::Status(404))]).await;
    authority(&[]).fetch_token(&request(&realm, &[])).await.unwrap_err();
    assert_eq!(server.requests().len(), 1);

    // The server does not speak TLS.
    let limits = Limits { retry_delays: vec![Duration::from_mins(1)], ..limits() };
    let realm = realm.replace("http:", "https:");
    let authority = authority_with(&[], true, limits);
    let error = authority.fetch_token(&request(&realm, &[])).await.unwrap_err();
    assert!(matches!(error, TokenError::Transport { .. }), "{error}");
}

/// Fetches a token with a password and returns the error.
async fn failure(realm: &str, is_plain_http: bool) -> TokenError {
    let authority =
        authority_with(&[("registry.example", password("user"))], is_plain_http, limits());
    let error = authority.fetch_token(&request(realm, &[])).await.unwrap_err();
    let shown = format!("{error} {error:?} {:?}", password("user"));
    assert!(!shown.contains("hunter2") && !shown.contains("user-"), "{shown}");
    assert!(error.to_string().starts_with("fetching a token for registry.example failed: "));
    error
}

#[tokio::test]
async fn errors_are_told_apart_and_show_no_secret() {
    let host = || "registry.example".to_owned();
    for status in [401, 403] {
        let answers =
            [(Method::POST, Answer::Status(status)), (Method::GET, Answer::Status(status))];
        let (_server, realm) = Server::start(&answers).await;
        let expected = TokenError::Unauthorized { host: host(), status, with_credential: true };
        assert_eq!(failure(&realm, true).await, expected);
    }
    for text in [
        "",
        "hunter2",
        r#"{"token":"","access_token":null}"#,
        r#"{"token":["hunter2"]}"#,
        r#"{"token":"hunter2\nX: y"}"#,
        r#"{"token":"t","expires_in":"hunter2"}"#,
        &format!(r#"{{"token":"{}"}}"#, "hunter2".repeat(200)),
    ] {
        let (_server, realm) = Server::start(&[(Method::POST, body(text))]).await;
        let error = failure(&realm, true).await;
        assert!(matches!(error, TokenError::Malformed { .. }), "{text}: {error}");
    }
    for realm in ["", "registry", "ftp://registry.example/hunter2", "file:///hunter2"] {
        assert_eq!(failure(realm, true).await, TokenError::InvalidRealm { host: host() });
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = failure(&format!("http://user-name:hunter2@{closed}/"), true).await;
    let TokenError::Transport { server, .. } = &error else { panic!("{error}") };
    assert_eq!(server, "127.0.0.1");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let (_server, realm) = Server::start(&[(Method::GET, Answer::Hang)]).await;
    let limits = Limits { timeout: Duration::from_millis(300), ..limits() };
    let authority = authority_with(&[], true, limits);
    let error = authority.fetch_token(&request(&realm, &[])).await.unwrap_err();
    assert!(matches!(error, TokenError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn credentials_are_not_sent_without_tls() {
    let (server, realm) = Server::start(&[(Method::GET, body(TOKEN))]).await;
    let expected = TokenError::InsecureRealm { host: "registry.example".to_owned() };
    assert_eq!(failure(&realm, false).await, expected);
    assert_eq!(server.requests(), [""; 0]);
    // There is nothing to protect in an anonymous request.
    authority_with(&[], false, limits()).fetch_token(&request(&realm, &[])).await.unwrap();
}

#[tokio::test]
async fn credentials_do_not_follow_redirects_to_another_origin() {
    let answers = [(Method::POST, body(TOKEN)), (Method::GET, body(TOKEN))];
    let (other, other_realm) = Server::start(&answers).await;
    for status in [302, 307, 308] {
        let redirect = Answer::Redirect(status, other_realm.clone());
        let answers = [(Method::POST, redirect.clone()), (Method::GET, redirect)];
        let (_server, realm) = Server::start(&answers).await;
        let expected = TokenError::Status { host: "registry.example".to_owned(), status };
        assert_eq!(failure(&realm, true).await, expected);
        assert_eq!(other.requests(), [""; 0], "{status}");
        authority(&[]).fetch_token(&request(&realm, &[])).await.unwrap();
        assert_eq!(other.requests().len(), 1, "{status}");
    }
    let redirect = Answer::Redirect(307, "/elsewhere".to_owned());
    let (server, realm) =
        Server::start(&[(Method::POST, redirect), (Method::POST, body(TOKEN))]).await;
    let authority = authority(&[("registry.example", password("user"))]);
    authority.fetch_token(&request(&realm, &[])).await.unwrap();
    assert!(server.requests()[1].starts_with("POST /elsewhere service="));
}
