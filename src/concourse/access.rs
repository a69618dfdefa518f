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
use crate::client::connect::client;

/// How to write it, for messages.
const USAGE: &str =
    "name the cluster: KUBECONFIG (the text of a kubeconfig, or its path), or KUBE_SERVER, KUBE_TOKEN and KUBE_CA (PEM)";

/// A client of the cluster, and the namespace to build in.
pub async fn connect(variables: &BTreeMap<String, String>) -> anyhow::Result<(Client, String)> {
    let value = |name: &str| variables.get(name).map(String::as_str).filter(|value| !value.trim().is_empty());
    let kubeconfig = match (value("KUBECONFIG"), value("KUBE_SERVER")) {
        (Some(text), None) => from_kubeconfig(text)?,
        (None, Some(server)) => from_parts(server, value("KUBE_TOKEN"), value("KUBE_CA"))?,
        (Some(_), Some(_)) => bail!("KUBECONFIG and KUBE_SERVER are both set; {USAGE}"),
        (None, None) => bail!("{USAGE}"),
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("the kubeconfig cannot be used")?;
    let namespace = value("KUBE_NAMESPACE").map_or_else(|| config.default_namespace.clone(), str::to_owned);
    let is_name = namespace.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    ensure!(is_name, "KUBE_NAMESPACE: {namespace:?} is no name of a namespace: lower-case letters, digits and '-'");
    Ok((client(config).context("the Kubernetes client could not be set up")?, namespace))
}

/// A text with line breaks, or one that begins as JSON, is the kubeconfig itself.
fn from_kubeconfig(text: &str) -> anyhow::Result<Kubeconfig> {
    // Whatever it is, it may hold a token: no message repeats it, nor what a parser quotes of it.
    if text.contains('\n') || text.trim_start().starts_with('{') {
        return Kubeconfig::from_yaml(text).map_err(|_| anyhow!("KUBECONFIG is not the text of a kubeconfig"));
    }
    let read = parameter_file::read(Path::new(text)).ok().and_then(|_| Kubeconfig::read_from(text).ok());
    read.context("KUBECONFIG: its value is neither a kubeconfig nor the path of one")
}

fn from_parts(server: &str, token: Option<&str>, authority: Option<&str>) -> anyhow::Result<Kubeconfig> {
    let token = token.with_context(|| format!("KUBE_TOKEN is missing; {USAGE}"))?;
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
        "users": [{ "name": "task", "user": { "token": token.trim() } }],
        "contexts": [{ "name": "task", "context": { "cluster": "task", "user": "task" } }],
        "current-context": "task",
    });
    serde_json::from_value(kubeconfig).context("KUBE_SERVER, KUBE_TOKEN and KUBE_CA make no kubeconfig")
}

#[cfg(test)]
mod tests {
    use super::{from_kubeconfig, from_parts};

    #[test]
    fn no_message_repeats_what_may_be_a_token() {
        for text in ["hunter2", r#"{"users": [{"user": {"token": "hunter2"}}], "clusters": 7}"#, "users:\n- token: [hunter2\n"] {
            let error = format!("{:#}", from_kubeconfig(text).unwrap_err());
            assert!(error.starts_with("KUBECONFIG") && !error.contains("hunter2"), "{error}");
        }
        let error = format!("{:#}", from_parts("https://server", Some("token"), Some("hunter2")).unwrap_err());
        assert!(error.starts_with("KUBE_CA") && !error.contains("hunter2"), "{error}");
    }
}
