//! A registry that speaks TLS, with a certificate that nobody knows.

use crate::cluster::{Namespace, kubectl, run};

/// Its address, and the folder that has its certificate as `tls.crt`. The ConfigMap `authority` has it too.
pub fn registry_with_tls(namespace: &Namespace) -> (String, tempfile::TempDir) {
    let host = format!("secure.{}.svc.cluster.local", namespace.name);
    let folder = tempfile::tempdir().unwrap();
    let (key, certificate) = (folder.path().join("tls.key"), folder.path().join("tls.crt"));
    run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=nobody",
            "-addext",
            &format!("subjectAltName=DNS:{host}"),
            "-keyout",
            key.to_str().unwrap(),
            "-out",
            certificate.to_str().unwrap(),
        ],
        b"",
    )
    .ok();
    let (key, certificate) = (key.to_str().unwrap(), certificate.to_str().unwrap());
    namespace
        .kubectl(&["create", "secret", "tls", "certificate", "--cert", certificate, "--key", key])
        .ok();
    namespace
        .kubectl(&[
            "create",
            "configmap",
            "authority",
            &format!("--from-file=ca.crt={certificate}"),
        ])
        .ok();
    namespace.kubectl(&["create", "configmap", "nonsense", "--from-literal=ca.crt=hello"]).ok();
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = kubectl(&["-n", "registry", "get", "deployment", "registry", "-o", image]).ok();
    namespace.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: secure, labels: {{ app: secure }} }}
spec:
  enableServiceLinks: false
  terminationGracePeriodSeconds: 0
  containers:
  - name: registry
    image: {image}
    imagePullPolicy: Never
    env:
    - {{ name: REGISTRY_HTTP_TLS_CERTIFICATE, value: /tls/tls.crt }}
    - {{ name: REGISTRY_HTTP_TLS_KEY, value: /tls/tls.key }}
    readinessProbe: {{ httpGet: {{ path: /, port: 5000, scheme: HTTPS }}, periodSeconds: 1 }}
    volumeMounts: [{{ name: tls, mountPath: /tls }}, {{ name: blobs, mountPath: /var/lib/registry }}]
  volumes: [{{ name: tls, secret: {{ secretName: certificate }} }}, {{ name: blobs, emptyDir: {{}} }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: secure }}
spec: {{ selector: {{ app: secure }}, ports: [{{ port: 5000 }}] }}
"
    ));
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/secure", "--timeout=120s"]).ok();
    (format!("{host}:5000"), folder)
}
