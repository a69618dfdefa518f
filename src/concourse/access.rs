//! Which cluster a task builds in. A task has no service account of its own: the way in arrives as parameters.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

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
    Ok((Client::try_from(config).context("the Kubernetes client could not be set up")?, namespace))
}

/// A text with line breaks is the kubeconfig itself.
fn from_kubeconfig(text: &str) -> anyhow::Result<Kubeconfig> {
    if text.contains('\n') {
        return Kubeconfig::from_yaml(text).context("KUBECONFIG is not the text of a kubeconfig");
    }
    Kubeconfig::read_from(text).with_context(|| format!("KUBECONFIG: {text} is neither a kubeconfig nor the path of one"))
}

fn from_parts(server: &str, token: Option<&str>, authority: Option<&str>) -> anyhow::Result<Kubeconfig> {
    let token = token.with_context(|| format!("KUBE_TOKEN is missing; {USAGE}"))?;
    let authority = match authority {
        Some(text) if text.contains("-----BEGIN") => Some(text.to_owned()),
        Some(path) => Some(
            fs::read_to_string(Path::new(path))
                .with_context(|| format!("KUBE_CA: {path} is neither PEM nor the path of a file"))?,
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
