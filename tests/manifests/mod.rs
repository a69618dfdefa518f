//! Manifests that the API server must refuse, with its words, and manifests that it must take. `crd.rs` evaluates the rules
//! offline, `admission.rs` asks a real API server.

use serde_json::Value;

/// The manifest that every row changes. It is good.
const BASE: &str = r"
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: {name: sample}
spec:
  source: {files: {Dockerfile: FROM scratch}}
  context: .
  imageName: my-app
";

/// Who refuses a manifest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    /// A CEL rule of the definition.
    Rule,
    /// A number's bound.
    Bound,
    /// A type, an enumeration or a missing field; then the API server does not come to the rules, and says so.
    Type,
}
use RefusedBy::{Bound, Rule, Type};

/// What is changed in the manifest (a JSON merge patch in YAML), who refuses it, and the words of the API server after
/// `OciBuild.ocibuild.dev "sample" is invalid: `.
pub const BAD: &[(&str, RefusedBy, &str)] = &[
    // What is missing.
    ("spec: {source: null}", Type, "spec.source: Required value"),
    ("spec: {context: null}", Type, "spec.context: Required value"),
    ("spec: {imageName: null}", Type, "spec.imageName: Required value"),
    (
        "spec: {push: true}",
        Rule,
        "spec: Invalid value: registry: required with push: true, for example registry: docker.io/my-team",
    ),
    (
        "spec: {push: true, output: {none: {}}}",
        Rule,
        "spec: Invalid value: registry: required with push: true, for example registry: docker.io/my-team",
    ),
    // Paths.
    ("spec: {context: ''}", Rule, "spec.context: Invalid value: \"\": context: must not be empty; '.' is the source's root"),
    (
        "spec: {context: /src}",
        Rule,
        "spec.context: Invalid value: \"/src\": context: a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {context: a/../../b}",
        Rule,
        "spec.context: Invalid value: \"a/../../b\": context: a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {dockerfile: ''}",
        Rule,
        "spec.dockerfile: Invalid value: \"\": dockerfile: must not be empty; leave it out for the Dockerfile in the context",
    ),
    (
        "spec: {dockerfile: ../Dockerfile}",
        Rule,
        "spec.dockerfile: Invalid value: \"../Dockerfile\": dockerfile: a path below the source's root or the context: not absolute and without '..'",
    ),
    // The image's name.
    (
        "spec: {imageName: My-App}",
        Rule,
        "spec.imageName: Invalid value: \"My-App\": imageName: lower-case letters, digits and single '.', '_' or '-' between them, parts separated by '/'; the tag goes to imageTag, the registry to registry",
    ),
    (
        "spec: {imageName: 'my-app:v1'}",
        Rule,
        "spec.imageName: Invalid value: \"my-app:v1\": imageName: lower-case letters, digits and single '.', '_' or '-' between them, parts separated by '/'; the tag goes to imageTag, the registry to registry",
    ),
    (
        "spec: {imageTag: ''}",
        Rule,
        "spec.imageTag: Invalid value: \"\": imageTag: letters, digits, '_', '.' and '-', not beginning with '.' or '-', at most 128 characters",
    ),
    (
        "spec: {imageTag: v1/2}",
        Rule,
        "spec.imageTag: Invalid value: \"v1/2\": imageTag: letters, digits, '_', '.' and '-', not beginning with '.' or '-', at most 128 characters",
    ),
    (
        "spec: {imageTag: 1.0}",
        Type,
        "spec.imageTag: Invalid value: \"number\": spec.imageTag in body must be of type string: \"number\"",
    ),
    (
        "spec: {registry: 'https://docker.io/my-team'}",
        Rule,
        "spec.registry: Invalid value: \"https://docker.io/my-team\": registry: host and path alone, without http:// or https://",
    ),
    (
        "spec: {registry: my-team}",
        Rule,
        "spec.registry: Invalid value: \"my-team\": registry: it must begin with a host that has a '.' or a port, or is localhost; for Docker Hub write docker.io/my-team",
    ),
    (
        "spec: {registry: docker.io/My-Team}",
        Rule,
        "spec.registry: Invalid value: \"docker.io/My-Team\": registry: a host, with a port and a lower-case path if need be, such as docker.io/my-team or registry.example.com:5000",
    ),
    (
        "spec: {registrySecrets: ['Docker_Hub']}",
        Rule,
        "spec.registrySecrets: Invalid value: registrySecrets: names of Secrets: lower-case letters, digits, '-' and '.'",
    ),
    ("spec: {push: 'true'}", Type, "spec.push: Invalid value: \"string\": spec.push in body must be of type boolean: \"string\""),
    // What goes into the build.
    (
        "spec: {buildArgs: {'A=B': c}}",
        Rule,
        "spec.buildArgs: Invalid value: buildArgs: a name must not be empty and must not contain '='",
    ),
    (
        "spec: {buildArgs: {DEBUG: true}}",
        Type,
        "spec.buildArgs.DEBUG: Invalid value: \"boolean\": spec.buildArgs.DEBUG in body must be of type string: \"boolean\"",
    ),
    ("spec: {labels: {'': x}}", Rule, "spec.labels: Invalid value: labels: a name must not be empty and must not contain '='"),
    (
        "spec: {target: 'two words'}",
        Rule,
        "spec.target: Invalid value: \"two words\": target: the name of a stage of the Dockerfile: letters, digits, '.', '_' and '-'",
    ),
    // How it runs.
    (
        "spec: {timeout: 1d}",
        Rule,
        "spec.timeout: Invalid value: \"1d\": timeout: hours, minutes and seconds between 1s and 168h, for example 30m or 1h30m",
    ),
    (
        "spec: {timeout: 169h}",
        Rule,
        "spec.timeout: Invalid value: \"169h\": timeout: hours, minutes and seconds between 1s and 168h, for example 30m or 1h30m",
    ),
    ("spec: {retries: 11}", Bound, "spec.retries: Invalid value: 11: spec.retries in body should be less than or equal to 10"),
    ("spec: {retries: -1}", Bound, "spec.retries: Invalid value: -1: spec.retries in body should be greater than or equal to 0"),
    (
        "spec: {isolation: docker}",
        Type,
        "spec.isolation: Unsupported value: \"docker\": supported values: \"auto\", \"rootless\", \"userns\", \"privileged\"",
    ),
    (
        "spec: {pod: {resources: {limits: {memory: 4 GB}}}}",
        Rule,
        "spec.pod.resources.limits[memory]: Invalid value: \"4 GB\": pod.resources: a Kubernetes quantity that is not negative, for example 2, 500m or 4Gi",
    ),
    (
        "spec: {pod: {resources: {requests: {cpu: -1}}}}",
        Rule,
        "spec.pod.resources.requests[cpu]: Invalid value: -1: pod.resources: a Kubernetes quantity that is not negative, for example 2, 500m or 4Gi",
    ),
    (
        "spec: {pod: {labels: {team: 'a team'}}}",
        Rule,
        "spec.pod.labels: Invalid value: pod: keys and values of labels: letters, digits, '-', '_' and '.', a letter or digit at both ends; a key may have a prefix such as example.com/",
    ),
    (
        "spec: {pod: {nodeSelector: {'kubernetes.io/': x}}}",
        Rule,
        "spec.pod.nodeSelector: Invalid value: pod: keys and values of labels: letters, digits, '-', '_' and '.', a letter or digit at both ends; a key may have a prefix such as example.com/",
    ),
    // Where the files come from.
    (
        "spec: {source: {files: null}}",
        Rule,
        "spec.source: Invalid value: source: name exactly one of persistentVolumeClaim, git, http, configMap or files",
    ),
    (
        "spec: {source: {configMap: {name: a}}}",
        Rule,
        "spec.source: Invalid value: source: name exactly one of persistentVolumeClaim, git, http, configMap or files",
    ),
    (
        "spec: {source: {files: {Dockerfile: null}}}",
        Rule,
        "spec.source.files: Invalid value: source.files: name at least one file",
    ),
    (
        "spec: {source: {files: {../Dockerfile: FROM scratch}}}",
        Rule,
        "spec.source.files: Invalid value: source.files: paths are relative to the source's root: no leading or trailing '/' and no '..'",
    ),
    (
        "spec: {source: {files: {/etc/passwd: x}}}",
        Rule,
        "spec.source.files: Invalid value: source.files: paths are relative to the source's root: no leading or trailing '/' and no '..'",
    ),
    (
        "spec: {source: {files: null, persistentVolumeClaim: {claimName: ''}}}",
        Rule,
        "spec.source.persistentVolumeClaim.claimName: Invalid value: \"\": source.persistentVolumeClaim.claimName: the name of a claim: lower-case letters, digits, '-' and '.'",
    ),
    (
        "spec: {source: {files: null, persistentVolumeClaim: {claimName: a, path: ../b}}}",
        Rule,
        "spec.source.persistentVolumeClaim.path: Invalid value: \"../b\": source.persistentVolumeClaim.path: a relative path without '..'",
    ),
    (
        "spec: {source: {files: null, configMap: {name: My Files}}}",
        Rule,
        "spec.source.configMap.name: Invalid value: \"My Files\": source.configMap.name: the name of a ConfigMap: lower-case letters, digits, '-' and '.'",
    ),
    (
        "spec: {source: {files: null, configMap: {name: a, items: [{key: a, path: /etc/a}]}}}",
        Rule,
        "spec.source.configMap.items[0].path: Invalid value: \"/etc/a\": source.configMap.items: path is relative to the source's root, without '..'",
    ),
    (
        "spec: {source: {files: null, configMap: {name: a, items: [{key: a, path: ''}]}}}",
        Rule,
        "spec.source.configMap.items[0].path: Invalid value: \"\": source.configMap.items: path must not be empty",
    ),
    (
        "spec: {source: {files: null, git: {url: 'git@github.com:my-team/my-app.git'}}}",
        Rule,
        "spec.source.git.url: Invalid value: \"git@github.com:my-team/my-app.git\": source.git.url: an http or https address such as https://github.com/my-team/my-app.git",
    ),
    (
        "spec: {source: {files: null, git: {url: 'https://token@github.com/my-team/my-app.git'}}}",
        Rule,
        "spec.source.git.url: Invalid value: \"https://token@github.com/my-team/my-app.git\": source.git.url: no user name, password or token in the address: everyone who can read the OciBuild would see it",
    ),
    (
        "spec: {source: {files: null, git: {url: 'https://github.com/my-team/my-app.git#main'}}}",
        Rule,
        "spec.source.git.url: Invalid value: \"https://github.com/my-team/my-app.git#main\": source.git.url: no white space and no '#': name the branch, tag or commit in source.git.revision",
    ),
    (
        "spec: {source: {files: null, git: {url: 'https://github.com/my-team/my-app.git', revision: --upload-pack=x}}}",
        Rule,
        "spec.source.git.revision: Invalid value: \"--upload-pack=x\": source.git.revision: a branch, a tag or a commit, such as main, v1.2.0 or refs/heads/main",
    ),
    ("spec: {source: {files: null, http: {url: 'https://example.com/a.tar'}}}", Type, "spec.source.http.sha256: Required value"),
    (
        "spec: {source: {files: null, http: {url: 'ftp://example.com/a.tar', sha256: 0000000000000000000000000000000000000000000000000000000000000abc}}}",
        Rule,
        "spec.source.http.url: Invalid value: \"ftp://example.com/a.tar\": source.http.url: an http or https address of a tar archive",
    ),
    (
        "spec: {source: {files: null, http: {url: 'https://me:secret@example.com/a.tar', sha256: 0000000000000000000000000000000000000000000000000000000000000abc}}}",
        Rule,
        "spec.source.http.url: Invalid value: \"https://me:secret@example.com/a.tar\": source.http.url: no user name or password in the address: everyone who can read the OciBuild would see it",
    ),
    (
        "spec: {source: {files: null, http: {url: 'https://example.com/my app.tar', sha256: 0000000000000000000000000000000000000000000000000000000000000abc}}}",
        Rule,
        "spec.source.http.url: Invalid value: \"https://example.com/my app.tar\": source.http.url: no white space",
    ),
    (
        "spec: {source: {files: null, http: {url: 'https://example.com/a.tar', sha256: abc}}}",
        Rule,
        "spec.source.http.sha256: Invalid value: \"abc\": source.http.sha256: 64 lower-case hexadecimal digits, as sha256sum prints them",
    ),
    // Where the tar goes.
    (
        "spec: {output: {persistentVolumeClaim: {claimName: a}, claimTemplate: {}}}",
        Rule,
        "spec.output: Invalid value: output: name at most one of persistentVolumeClaim, claimTemplate or none",
    ),
    ("spec: {output: {none: {}}}", Rule, "spec: Invalid value: output.none: only with push: true, else the image would be lost"),
    (
        "spec: {output: {claimTemplate: {storage: '0'}}}",
        Rule,
        "spec.output.claimTemplate.storage: Invalid value: \"0\": output.claimTemplate.storage: a size above zero, for example 10Gi",
    ),
    (
        "spec: {output: {persistentVolumeClaim: {claimName: My_Images}}}",
        Rule,
        "spec.output.persistentVolumeClaim.claimName: Invalid value: \"My_Images\": output.persistentVolumeClaim.claimName: the name of a claim: lower-case letters, digits, '-' and '.'",
    ),
    (
        "spec: {output: {persistentVolumeClaim: {claimName: a, path: /b}}}",
        Rule,
        "spec.output.persistentVolumeClaim.path: Invalid value: \"/b\": output.persistentVolumeClaim.path: a relative path without '..'",
    ),
    // The object itself.
    (
        "metadata: {name: a-name-that-is-longer-than-the-names-of-its-pods-allow}",
        Rule,
        "<nil>: Invalid value: metadata.name: at most 52 characters, so that the names of its pods stay below 63",
    ),
];

/// What is changed in the manifest so that it stays good.
pub const GOOD: &[&str] = &[
    "{}",
    "spec: {context: src, dockerfile: src/Dockerfile.production, imageName: my-team/my_app.web, imageTag: v1.0.0-rc.1}",
    "spec: {push: true, registry: docker.io/my-team, registrySecrets: [docker-hub, my.mirror]}",
    "spec: {push: true, registry: 'registry.example.com:5000', output: {none: {}}}",
    "spec: {push: true, registry: localhost}",
    "spec: {buildArgs: {APP_VERSION: v1.0.0, EMPTY: '', LINES: \"a\\nb\"}, labels: {org.opencontainers.image.source: 'https://x/?a=b'}}",
    "spec: {timeout: 1h30m, retries: 0, isolation: rootless, target: build}",
    "spec: {timeout: 168h, retries: 10, isolation: auto}",
    "spec: {source: {files: {app/a.txt: ''}}}",
    "spec: {source: {files: null, persistentVolumeClaim: {claimName: source, path: checkouts/main}}, context: source-code}",
    "spec: {source: {files: null, git: {url: 'https://github.com/my-team/my-app.git', revision: refs/tags/v1.2.0}}}",
    "spec: {source: {files: null, git: {url: 'http://git.example.com:3000/a'}}}",
    "spec: {source: {files: null, http: {url: 'https://example.com/a.tar.gz?x=1', sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}}}",
    "spec: {source: {files: null, configMap: {name: my-files, items: [{key: a, path: app/a}]}}}",
    "spec: {output: {persistentVolumeClaim: {claimName: images, path: team/a}}}",
    "spec: {output: {claimTemplate: {storage: 512Mi, storageClassName: fast}}}",
    "spec: {pod: {resources: {requests: {cpu: 2, memory: 4Gi}, limits: {ephemeral-storage: '10'}}, nodeSelector: {kubernetes.io/arch: amd64}}}",
    "spec: {pod: {tolerations: [{key: builds, operator: Exists}], labels: {team: ''}, annotations: {a.example/b: any text}}}",
    "spec: {pod: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}}}",
    "spec: {pod: null, output: null, timeout: null, registry: null, source: {git: null}}",
];

/// The manifest with a change.
pub fn manifest(change: &str) -> Value {
    let mut manifest: Value = serde_saphyr::from_str(BASE).unwrap();
    let change: Value = serde_saphyr::from_str(change).unwrap_or_else(|error| panic!("{change}: {error}"));
    merge(&mut manifest, &change);
    manifest
}

/// RFC 7386.
fn merge(target: &mut Value, change: &Value) {
    let (Some(fields), Some(changes)) = (target.as_object_mut(), change.as_object()) else {
        *target = change.clone();
        return;
    };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name).or_insert_with(|| Value::Object(serde_json::Map::new())), change);
        }
    }
}
