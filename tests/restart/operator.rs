//! The operator as a process of the test: the deployed one's configuration and rights, but killable.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::cluster::{kubectl, run};

/// One test at a time may take the operator away.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The operator of the cluster, scaled to zero until this is dropped.
pub struct Deployed {
    replicas: String,
    configuration: tempfile::NamedTempFile,
    kubeconfig: tempfile::NamedTempFile,
    _one_at_a_time: MutexGuard<'static, ()>,
}

pub const NAMESPACE: &str = "ocibuild-system";
const DEPLOYMENT: &str = "deployment/ocibuild";

impl Deployed {
    pub fn scaled_to_zero() -> Self {
        let one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let in_namespace =
            |arguments: &[&str]| kubectl(&[&["--namespace", NAMESPACE], arguments].concat()).ok();
        let replicas = in_namespace(&["get", DEPLOYMENT, "-o", "jsonpath={.spec.replicas}"]);
        let config_map: Value =
            serde_json::from_str(&in_namespace(&["get", "configmap", "ocibuild", "-o", "json"]))
                .unwrap();
        let configuration = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(configuration.path(), config_map["data"]["config.yaml"].as_str().unwrap())
            .unwrap();
        in_namespace(&["scale", DEPLOYMENT, "--replicas=0"]);
        in_namespace(&[
            "wait",
            "--for=delete",
            "pods",
            "-l",
            "app.kubernetes.io/name=ocibuild",
            "--timeout=60s",
        ]);
        Self {
            replicas,
            configuration,
            kubeconfig: as_service_account(),
            _one_at_a_time: one_at_a_time,
        }
    }

    /// Sets a part of the configuration for the operators that are started from now on.
    pub fn configure(&self, part: &str, value: Value) {
        let text = std::fs::read_to_string(self.configuration.path()).unwrap();
        let mut configuration: Value = serde_saphyr::from_str(&text).unwrap();
        configuration[part] = value;
        std::fs::write(self.configuration.path(), configuration.to_string()).unwrap();
    }

    pub fn start(&self, identity: &str) -> Operator {
        self.start_with_lease(identity, NAMESPACE)
    }

    pub fn start_with_lease(&self, identity: &str, namespace: &str) -> Operator {
        self.start_with(identity, namespace, &[])
    }

    pub fn start_with(
        &self,
        identity: &str,
        namespace: &str,
        variables: &[(&str, &str)],
    ) -> Operator {
        // A killed leader keeps its lease; the test does not wait for it to lapse where it starts the next by itself.
        if namespace == NAMESPACE {
            kubectl(&[
                "--namespace",
                namespace,
                "delete",
                "lease",
                "ocibuild-controller",
                "--ignore-not-found",
            ])
            .ok();
        } else {
            grant_lease(namespace);
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_ocibuild"))
            .args(["controller", "--config"])
            .arg(self.configuration.path())
            .args([
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--identity",
                identity,
                "--lease-namespace",
                namespace,
            ])
            .env("KUBECONFIG", self.kubeconfig.path())
            .envs(variables.iter().copied())
            .stdout(Stdio::inherit())
            .spawn()
            .unwrap();
        Operator { child, port }
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        let replicas = format!("--replicas={}", self.replicas);
        kubectl(&["--namespace", NAMESPACE, "scale", DEPLOYMENT, &replicas]);
        kubectl(&[
            "--namespace",
            NAMESPACE,
            "delete",
            "lease",
            "ocibuild-controller",
            "--ignore-not-found",
        ]);
        kubectl(&["--namespace", NAMESPACE, "rollout", "status", DEPLOYMENT, "--timeout=60s"]);
    }
}

/// The kubeconfig of the tests, acting as the operator's service account: its rights and no more.
fn as_service_account() -> tempfile::NamedTempFile {
    let mut config: Value =
        serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]).ok())
            .unwrap();
    config["users"][0]["user"]["as"] = format!("system:serviceaccount:{NAMESPACE}:ocibuild").into();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    file
}

/// Lets the service account keep a lease in a namespace of the test's, as the chart lets it in its own.
fn grant_lease(namespace: &str) {
    let manifest = format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: lease, namespace: {namespace} }}
rules: [{{ apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, patch] }}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: lease, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: lease }}
subjects: [{{ kind: ServiceAccount, name: ocibuild, namespace: {NAMESPACE} }}]
"
    );
    run("kubectl", &["apply", "-f", "-"], manifest.as_bytes()).ok();
}

pub struct Operator {
    child: Child,
    port: u16,
}

impl Operator {
    /// SIGKILL: no goodbye, no lease given back.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What Prometheus would read; nothing while the operator does not answer.
    pub fn metrics(&self) -> String {
        let address = format!("http://127.0.0.1:{}/metrics", self.port);
        run("curl", &["--silent", &address], b"").stdout
    }

    pub fn leads(&self) -> bool {
        self.metrics().contains("ocibuild_leader 1")
    }

    pub fn wait_until_it_leads(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
        while !self.leads() {
            assert!(
                std::time::Instant::now() < deadline,
                "the operator does not lead after a minute"
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
