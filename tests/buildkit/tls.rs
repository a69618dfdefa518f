//! Connections over TCP with mutual TLS.

use ocibuild::buildkit::{ClientTls, ConnectError, Connection, SolveError};

use crate::{
    build::Build,
    certificates::{Authority, client_tls},
    context::Context,
    daemon::shared,
};

/// Returns the error of a build over TCP: TLS 1.3 lets the daemon refuse a client's certificate
/// only after the client has finished its handshake.
async fn refusal(tls: Option<&ClientTls>) -> SolveError {
    let daemon = shared();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    match daemon.connect_to(&daemon.tcp, tls).await {
        Ok(connection) => Build::of(context.path()).run(&connection).await.error(),
        Err(error) => error.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_over_mutual_tls_equals_one_over_the_unix_socket() {
    let daemon = shared();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /copy\n");
    let connection = daemon.connect_to(&daemon.tcp, Some(&daemon.client_tls())).await.unwrap();
    let over_tcp = Build::of(context.path()).export("oci", &[]).run(&connection).await;
    let over_unix = Build::of(context.path()).export("oci", &[]).run(&daemon.connect().await).await;
    assert_eq!(over_tcp.image(0).digest, over_unix.image(0).digest);
    assert_eq!(over_tcp.image(0).layer(0).text("copy"), "FROM scratch\nCOPY Dockerfile /copy\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_another_authority_is_refused() {
    let tls = client_tls(&Authority::new(), &shared().authority);
    let error = refusal(Some(&tls)).await;
    assert!(matches!(error, SolveError::Connect(ConnectError::Tls { .. })), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&shared().tcp.to_string()), "{text}");
    assert!(text.contains("TLS handshake failed: invalid peer certificate: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_with_another_name_is_refused() {
    let tls = ClientTls { server_name: Some("other".to_owned()), ..shared().client_tls() };
    let error = refusal(Some(&tls)).await;
    let text = error.to_string();
    assert!(matches!(error, SolveError::Connect(ConnectError::Tls { .. })), "{error:?}");
    assert!(text.contains("not valid for name"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_of_another_authority_is_refused_by_the_daemon() {
    let tls = client_tls(&shared().authority, &Authority::new());
    let text = refusal(Some(&tls)).await.to_string();
    assert!(text.contains("lost the connection to BuildKit: "), "{text}");
    assert!(text.contains("alert"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_refused() {
    let tls = ClientTls { certificate: Vec::new(), key: Vec::new(), ..shared().client_tls() };
    let error = Connection::open(&shared().tcp, Some(&tls)).await.err().unwrap();
    assert!(matches!(error, ConnectError::Settings(_)), "{error:?}");
    assert!(error.to_string().contains("client key"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_tls_is_refused() {
    let text = refusal(None).await.to_string();
    assert!(text.contains("BuildKit"), "{text}");
}
