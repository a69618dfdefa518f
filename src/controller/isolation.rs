//! How `isolation: auto` is decided: by what the nodes report.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::ListParams};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    api::Isolation,
    plan::{OperatorConfig, pod::PodIsolation},
};

/// How long a look at the nodes counts.
const FRESH: Duration = Duration::from_mins(1);

/// What the nodes can do, looked at no more than once a minute.
pub struct Nodes {
    client: Client,
    seen: Mutex<Option<(Instant, bool)>>,
}

impl Nodes {
    /// Not looked at yet.
    pub fn new(client: Client) -> Self {
        Self { client, seen: Mutex::new(None) }
    }

    /// The isolation for a build that asks for `asked`.
    pub async fn resolve(
        &self,
        asked: Isolation,
        config: &OperatorConfig,
    ) -> Result<PodIsolation, kube::Error> {
        match asked {
            Isolation::Rootless => Ok(PodIsolation::Rootless),
            Isolation::Userns => Ok(PodIsolation::Userns),
            Isolation::Privileged => Ok(PodIsolation::Privileged),
            Isolation::Auto => {
                let allows = |isolation| config.allowed_isolations.contains(&isolation);
                if allows(Isolation::Userns)
                    && (!allows(Isolation::Rootless) || self.have_user_namespaces().await?)
                {
                    Ok(PodIsolation::Userns)
                } else if allows(Isolation::Rootless) || !allows(Isolation::Privileged) {
                    Ok(PodIsolation::Rootless)
                } else {
                    Ok(PodIsolation::Privileged)
                }
            }
        }
    }

    async fn have_user_namespaces(&self) -> Result<bool, kube::Error> {
        let mut seen = self.seen.lock().await;
        if let Some((at, answer)) = *seen
            && at.elapsed() < FRESH
        {
            return Ok(answer);
        }
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?;
        let answer = all_have_user_namespaces(&nodes.items);
        *seen = Some((Instant::now(), answer));
        Ok(answer)
    }
}

/// Whether every Linux node that takes pods reports user namespaces for its default runtime (KEP-127).
fn all_have_user_namespaces(nodes: &[Node]) -> bool {
    let mut candidates = nodes.iter().filter(|node| {
        let is_cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
        let system =
            node.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
        !is_cordoned && system.is_none_or(|system| system == "linux")
    });
    let reports = |node: &Node| {
        let handlers = node
            .status
            .as_ref()
            .and_then(|status| status.runtime_handlers.as_deref())
            .unwrap_or_default();
        let default =
            handlers.iter().find(|handler| handler.name.as_deref().unwrap_or_default().is_empty());
        default
            .and_then(|handler| handler.features.as_ref())
            .and_then(|features| features.user_namespaces)
            == Some(true)
    };
    candidates.clone().next().is_some() && candidates.all(reports)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Node, all_have_user_namespaces};

    fn node(user_namespaces: bool, cordoned: bool, system: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": { "labels": { "kubernetes.io/os": system } },
            "spec": { "unschedulable": cordoned },
            "status": { "runtimeHandlers": [
                { "name": "other", "features": { "userNamespaces": true } },
                { "name": "", "features": { "userNamespaces": user_namespaces } },
            ] },
        }))
        .unwrap()
    }

    #[test]
    fn user_namespaces_count_when_every_linux_node_that_takes_pods_reports_them() {
        for (nodes, expected) in [
            (vec![], false),
            (vec![node(true, false, "linux")], true),
            (vec![node(true, false, "linux"), node(false, false, "linux")], false),
            (vec![node(true, false, "linux"), node(false, true, "linux")], true),
            (vec![node(true, false, "linux"), node(false, false, "windows")], true),
            (vec![Node::default()], false),
        ] {
            assert_eq!(all_have_user_namespaces(&nodes), expected, "{nodes:?}");
        }
    }
}
