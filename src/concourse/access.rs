//! Which cluster a task builds in. A task has no service account of its own: the way in arrives as parameters.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, anyhow, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use super::parameter_file;
use crate::{client::connect::client, text::without_secrets};

/// How to write it, for messages.
const USAGE: &str = "name the cluster: KUBECONFIG (the text of a kubeconfig, or its path), or KUBE_SERVER, KUBE_TOKEN and KUBE_CA (PEM)";

/// What a token cannot hold, for messages that must not repeat it.
const NOT_IN_TOKENS: &str = "spaces, line breaks or other characters that are in no token";

/// A client of the cluster, and the namespace to build in.
pub async fn connect(variables: &BTreeMap<String, String>) -> anyhow::Result<(Client, String)> {
    let value = |name: &str| {
        variables.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
    };
    let kubeconfig = match (value("KUBECONFIG"), value("KUBE_SERVER")) {
        (Some(text), None) => from_kubeconfig(text)?,
        (None, Some(server)) => from_parts(server, value("KUBE_TOKEN"), value("KUBE_CA"))?,
        (Some(_), Some(_)) => bail!("KUBECONFIG and KUBE_SERVER are both set; {USAGE}"),
        (None, None) => bail!("{USAGE}"),
    };
    let config = configuration(kubeconfig).await?;
    let namespace =
        value("KUBE_NAMESPACE").map_or_else(|| config.default_namespace.clone(), str::to_owned);
    let is_name =
        namespace.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    ensure!(
        is_name,
        "KUBE_NAMESPACE: {namespace:?} is no name of a namespace: lower-case letters, digits and '-'"
    );
    let proxy = config.proxy_url.as_ref().map(ToString::to_string);
    let client = client(config).map_err(|error| {
        unusable("the Kubernetes client could not be set up", error, proxy.as_deref())
    })?;
    Ok((client, namespace))
}

async fn configuration(kubeconfig: Kubeconfig) -> anyhow::Result<Config> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable("the kubeconfig cannot be used", error, None))?;
    let user = serde_json::to_value(&config.auth_info).unwrap_or_default();
    ensure!(
        user["token"].as_str().is_none_or(is_token),
        "KUBECONFIG: its user's token has {NOT_IN_TOKENS}"
    );
    Ok(config)
}

/// Where something is wrong with an address, the words may repeat it: that of a proxy can hold a password, also without a scheme.
fn unusable(what: &str, error: impl Into<anyhow::Error>, proxy: Option<&str>) -> anyhow::Error {
    let words = without_secrets(&format!("{:#}", error.into()));
    match proxy.and_then(|proxy| proxy.rsplit_once('@')) {
        Some((user, _)) => anyhow!("{what}: {}", words.replace(&format!("{user}@"), "")),
        None => anyhow!("{what}: {words}"),
    }
}

/// Whether it can be sent in a header: kube panics where it cannot.
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A text with line breaks, or one that begins as JSON, is the kubeconfig itself.
fn from_kubeconfig(text: &str) -> anyhow::Result<Kubeconfig> {
    // Whatever it is, it may hold a token: no message repeats it, nor what a parser quotes of it.
    if text.contains('\n') || text.trim_start().starts_with('{') {
        return Kubeconfig::from_yaml(text)
            .map_err(|_| anyhow!("KUBECONFIG is not the text of a kubeconfig"));
    }
    let read =
        parameter_file::read(Path::new(text)).ok().and_then(|_| Kubeconfig::read_from(text).ok());
    read.context("KUBECONFIG: its value is neither a kubeconfig nor the path of one")
}

fn from_parts(
    server: &str,
    token: Option<&str>,
    authority: Option<&str>,
) -> anyhow::Result<Kubeconfig> {
    let token = token.with_context(|| format!("KUBE_TOKEN is missing; {USAGE}"))?.trim();
    ensure!(is_token(token), "KUBE_TOKEN: its value has {NOT_IN_TOKENS}");
    let authority = match authority {
        Some(text) if text.contains("-----BEGIN") => Some(text.to_owned()),
        Some(path) => Some(
            parameter_file::read_text(Path::new(path))
                .map_err(|_| anyhow!("KUBE_CA: its value is neither PEM nor the path of a file"))?,
        ),
        None => None,
    };
    let cluster = json!({
        "server": server,
        "certificate-authority-data": authority.map(|authority| STANDARD.encode(authority)),
    });
    let kubeconfig = json!({
        "clusters": [{ "name": "task", "cluster": cluster }],
        "users": [{ "name": "task", "user": { "token": token } }],
        "contexts": [{ "name": "task", "context": { "cluster": "task", "user": "task" } }],
        "current-context": "task",
    });
    serde_json::from_value(kubeconfig)
        .context("KUBE_SERVER, KUBE_TOKEN and KUBE_CA make no kubeconfig")
}

#[cfg(test)]
mod tests {
    use super::{configuration, from_kubeconfig, from_parts, unusable};

    #[test]
    fn no_message_repeats_what_may_be_a_token() {
        for text in [
            "hunter2",
            r#"{"users": [{"user": {"token": "hunter2"}}], "clusters": 7}"#,
            "users:\n- token: [hunter2\n",
        ] {
            let error = format!("{:#}", from_kubeconfig(text).unwrap_err());
            assert!(error.starts_with("KUBECONFIG") && !error.contains("hunter2"), "{error}");
        }
        let error = format!(
            "{:#}",
            from_parts("https://server", Some("token"), Some("hunter2")).unwrap_err()
        );
        assert!(error.starts_with("KUBE_CA") && !error.contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_token_that_no_header_can_hold_is_refused_and_not_repeated() {
        for token in ["hunter2 hunter3", "hunter2\nhunter3", "hunter2\thunter3", "hunter2\u{e4}"] {
            let error =
                format!("{:#}", from_parts("https://server", Some(token), None).unwrap_err());
            assert!(
                error.starts_with("KUBE_TOKEN: its value has spaces") && !error.contains("hunter"),
                "{error}"
            );
            let kubeconfig = serde_json::json!({
                "clusters": [{ "name": "a", "cluster": { "server": "https://server" } }],
                "users": [{ "name": "a", "user": { "token": token } }],
                "contexts": [{ "name": "a", "context": { "cluster": "a", "user": "a" } }],
                "current-context": "a",
            });
            let kubeconfig = from_kubeconfig(&kubeconfig.to_string()).unwrap();
            let error = format!("{:#}", configuration(kubeconfig).await.err().unwrap());
            assert!(
                error.starts_with("KUBECONFIG: its user's token has") && !error.contains("hunter"),
                "{error}"
            );
        }
        configuration(from_parts("https://server", Some(" e30.e30.a-b_c\n"), None).unwrap())
            .await
            .unwrap();
    }

    #[test]
    fn no_message_repeats_the_password_of_a_proxy() {
        for proxy in [
            "ftp://me:hunter2@proxy:3128/",
            "me:hunter2@proxy:3128",
            "http://me:hunt@hunter2@proxy:3128/",
        ] {
            for known in
                [Some(proxy), None].into_iter().take(if proxy.contains("://") { 2 } else { 1 })
            {
                let words =
                    anyhow::anyhow!("configured proxy {proxy} uses an unsupported protocol");
                let error = unusable("no client", words, known).to_string();
                assert!(
                    error.starts_with("no client: configured proxy ")
                        && error.contains("proxy:3128"),
                    "{error}"
                );
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
    }
}
