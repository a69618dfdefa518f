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
    /// A type, a length, an enumeration or a missing field; then the API server does not come to the rules, and says so.
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
        "spec: {push: true, registry: registry.example.com/team, imageName: registry.example.com/app}",
        Rule,
        "spec: Invalid value: imageName: without the registry, which stands in registry already",
    ),
    (
        "spec: {push: true, output: {none: {}}}",
        Rule,
        "spec: Invalid value: registry: required with push: true, for example registry: docker.io/my-team",
    ),
    // Paths.
    (
        "spec: {context: ''}",
        Rule,
        "spec.context: Invalid value: \"\": context: must not be empty; '.' is the source's root",
    ),
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
    // The cache.
    (
        "spec: {cache: {registry: {reference: cache/my-app}}}",
        Rule,
        "spec.cache.registry.reference: Invalid value: \"cache/my-app\": cache.registry.reference: a host that has a '.' or a port, a lower-case path, and a tag if need be, such as registry.example.com/cache/my-app",
    ),
    ("spec: {cache: {}}", Type, "spec.cache.registry: Required value"),
    (
        "spec: {cache: {registry: {reference: r.example.com/x, export: all}}}",
        Type,
        "spec.cache.registry.export: Unsupported value: \"all\": supported values: \"min\", \"max\"",
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
    (
        "spec: {push: 'true'}",
        Type,
        "spec.push: Invalid value: \"string\": spec.push in body must be of type boolean: \"string\"",
    ),
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
    (
        "spec: {labels: {'': x}}",
        Rule,
        "spec.labels: Invalid value: labels: a name must not be empty and must not contain '='",
    ),
    (
        "spec: {target: 'two words'}",
        Rule,
        "spec.target: Invalid value: \"two words\": target: the name of a stage of the Dockerfile: letters, digits, '.', '_' and '-'",
    ),
    // The form of the image's files.
    (
        "spec: {outputFormat: docker, platforms: [linux/amd64, linux/arm64]}",
        Rule,
        "spec: Invalid value: outputFormat: a docker tar holds one platform; write oci, or leave it out with several platforms",
    ),
    (
        "spec: {outputFormat: docker, attestations: {provenance: min}}",
        Rule,
        "spec: Invalid value: outputFormat: a docker tar cannot hold attestations; write oci, or leave it out with attestations",
    ),
    (
        "spec: {outputFormat: docker, attestations: {sbom: {}}}",
        Rule,
        "spec: Invalid value: outputFormat: a docker tar cannot hold attestations; write oci, or leave it out with attestations",
    ),
    (
        "spec: {outputFormat: tar}",
        Type,
        "spec.outputFormat: Unsupported value: \"tar\": supported values: \"docker\", \"oci\"",
    ),
    (
        "spec: {outputFormat: OCI}",
        Type,
        "spec.outputFormat: Unsupported value: \"OCI\": supported values: \"docker\", \"oci\"",
    ),
    (
        "spec: {unpackRootfs: true, platforms: [linux/amd64, linux/arm64]}",
        Rule,
        "spec: Invalid value: unpackRootfs: only for one platform",
    ),
    (
        "spec: {unpackRootfs: true, push: true, registry: docker.io/my-team, output: {none: {}}}",
        Rule,
        "spec: Invalid value: unpackRootfs: only with an output; output.none leaves no place for rootfs",
    ),
    (
        "spec: {unpackRootfs: 'yes'}",
        Type,
        "spec.unpackRootfs: Invalid value: \"string\": spec.unpackRootfs in body must be of type boolean: \"string\"",
    ),
    // Compression.
    (
        "spec: {compressionLevel: 10}",
        Rule,
        "spec: Invalid value: compressionLevel: only with a compression that has levels: gzip and estargz from 0 to 9, zstd from 0 to 22",
    ),
    (
        "spec: {compression: uncompressed, compressionLevel: 0}",
        Rule,
        "spec: Invalid value: compressionLevel: only with a compression that has levels: gzip and estargz from 0 to 9, zstd from 0 to 22",
    ),
    (
        "spec: {compression: gzip, compressionLevel: 12}",
        Rule,
        "spec: Invalid value: compressionLevel: only with a compression that has levels: gzip and estargz from 0 to 9, zstd from 0 to 22",
    ),
    (
        "spec: {compression: estargz, compressionLevel: 10}",
        Rule,
        "spec: Invalid value: compressionLevel: only with a compression that has levels: gzip and estargz from 0 to 9, zstd from 0 to 22",
    ),
    (
        "spec: {compression: zstd, compressionLevel: 23}",
        Bound,
        "spec.compressionLevel: Invalid value: 23: spec.compressionLevel in body should be less than or equal to 22",
    ),
    (
        "spec: {compression: gzip, compressionLevel: -1}",
        Bound,
        "spec.compressionLevel: Invalid value: -1: spec.compressionLevel in body should be greater than or equal to 0",
    ),
    (
        "spec: {compression: zstd, compressionLevel: '3'}",
        Type,
        "spec.compressionLevel: Invalid value: \"string\": spec.compressionLevel in body must be of type integer: \"string\"",
    ),
    (
        "spec: {compression: Gzip}",
        Type,
        "spec.compression: Unsupported value: \"Gzip\": supported values: \"gzip\", \"zstd\", \"estargz\", \"uncompressed\"",
    ),
    (
        "spec: {compression: xz}",
        Type,
        "spec.compression: Unsupported value: \"xz\": supported values: \"gzip\", \"zstd\", \"estargz\", \"uncompressed\"",
    ),
    // Tags, labels and annotations.
    (
        "spec: {extraTags: 'v1,v1.2'}",
        Type,
        "spec.extraTags: Invalid value: \"string\": spec.extraTags in body must be of type array: \"string\"",
    ),
    (
        "spec: {extraTags: ['v1,v1.2']}",
        Rule,
        "spec.extraTags: Invalid value: extraTags: letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
    ),
    (
        "spec: {extraTags: ['']}",
        Rule,
        "spec.extraTags: Invalid value: extraTags: letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
    ),
    (
        "spec: {extraTags: [v1, -v2]}",
        Rule,
        "spec.extraTags: Invalid value: extraTags: letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
    ),
    (
        "spec: {extraTags: ['docker.io/my-team/my-app:v1']}",
        Rule,
        "spec.extraTags: Invalid value: extraTags: letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
    ),
    (
        "spec: {extraTags: [1.0]}",
        Type,
        "spec.extraTags[0]: Invalid value: \"number\": spec.extraTags[0] in body must be of type string: \"number\"",
    ),
    (
        "spec: {extraTags: [v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15, v16]}",
        Type,
        "spec.extraTags: Too many: 17: must have at most 16 items",
    ),
    (
        "spec: {extraTags: [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]}",
        Type,
        "spec.extraTags[0]: Too long: may not be more than 128 bytes",
    ),
    (
        "spec: {annotations: {Vendor: my-team}}",
        Rule,
        "spec.annotations: Invalid value: annotations: a name has lower-case letters, digits, '.', '_', '/' and '-', for example org.opencontainers.image.source",
    ),
    (
        "spec: {annotations: {'': my-team}}",
        Rule,
        "spec.annotations: Invalid value: annotations: a name has lower-case letters, digits, '.', '_', '/' and '-', for example org.opencontainers.image.source",
    ),
    (
        "spec: {annotations: {'a=b': c}}",
        Rule,
        "spec.annotations: Invalid value: annotations: a name has lower-case letters, digits, '.', '_', '/' and '-', for example org.opencontainers.image.source",
    ),
    (
        "spec: {annotations: {vendor.: my-team}}",
        Rule,
        "spec.annotations: Invalid value: annotations: a name has lower-case letters, digits, '.', '_', '/' and '-', for example org.opencontainers.image.source",
    ),
    (
        "spec: {annotations: {a: \"one\\ntwo\"}}",
        Rule,
        "spec.annotations: Invalid value: annotations: a value is one line",
    ),
    (
        "spec: {annotations: {a: 1}}",
        Type,
        "spec.annotations.a: Invalid value: \"integer\": spec.annotations.a in body must be of type string: \"integer\"",
    ),
    (
        "spec: {annotations: 'a=b,c=d'}",
        Type,
        "spec.annotations: Invalid value: \"string\": spec.annotations in body must be of type object: \"string\"",
    ),
    (
        "spec: {labels: 'a=b,c=d'}",
        Type,
        "spec.labels: Invalid value: \"string\": spec.labels in body must be of type object: \"string\"",
    ),
    (
        "spec: {labels: {retries: 3}}",
        Type,
        "spec.labels.retries: Invalid value: \"integer\": spec.labels.retries in body must be of type string: \"integer\"",
    ),
    (
        "spec: {labelsFile: ''}",
        Rule,
        "spec.labelsFile: Invalid value: \"\": labelsFile: must not be empty; leave it out if there is none",
    ),
    (
        "spec: {labelsFile: /etc/labels}",
        Rule,
        "spec.labelsFile: Invalid value: \"/etc/labels\": labelsFile: a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {labelsFile: ../labels}",
        Rule,
        "spec.labelsFile: Invalid value: \"../labels\": labelsFile: a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {labelsFile: [ci/labels]}",
        Type,
        "spec.labelsFile: Invalid value: \"array\": spec.labelsFile in body must be of type string: \"array\"",
    ),
    // Build arguments.
    (
        "spec: {buildArgs: 'A=b,C=d'}",
        Type,
        "spec.buildArgs: Invalid value: \"string\": spec.buildArgs in body must be of type object: \"string\"",
    ),
    (
        "spec: {buildArgs: ['A=b']}",
        Type,
        "spec.buildArgs: Invalid value: \"array\": spec.buildArgs in body must be of type object: \"array\"",
    ),
    (
        "spec: {buildArgs: {'': b}}",
        Rule,
        "spec.buildArgs: Invalid value: buildArgs: a name must not be empty and must not contain '='",
    ),
    (
        "spec: {buildArgsFile: ''}",
        Rule,
        "spec.buildArgsFile: Invalid value: \"\": buildArgsFile: must not be empty; leave it out if there is none",
    ),
    (
        "spec: {buildArgsFile: /ci/build-args.yml}",
        Rule,
        "spec.buildArgsFile: Invalid value: \"/ci/build-args.yml\": buildArgsFile: a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {buildArgsFile: ci/../../build-args.yml}",
        Rule,
        "spec.buildArgsFile: Invalid value: \"ci/../../build-args.yml\": buildArgsFile: a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {imageArgs: {base-image: base/image.tar}}",
        Rule,
        "spec.imageArgs: Invalid value: imageArgs: a name is that of an ARG: letters, digits and '_', not beginning with a digit",
    ),
    (
        "spec: {imageArgs: {1st: base/image.tar}}",
        Rule,
        "spec.imageArgs: Invalid value: imageArgs: a name is that of an ARG: letters, digits and '_', not beginning with a digit",
    ),
    (
        "spec: {imageArgs: {'': base/image.tar}}",
        Rule,
        "spec.imageArgs: Invalid value: imageArgs: a name is that of an ARG: letters, digits and '_', not beginning with a digit",
    ),
    (
        "spec: {imageArgs: {base: /base/image.tar}}",
        Rule,
        "spec.imageArgs: Invalid value: imageArgs: a path below the source's root: not empty, not absolute and without '..'",
    ),
    (
        "spec: {imageArgs: {base: ../image.tar}}",
        Rule,
        "spec.imageArgs: Invalid value: imageArgs: a path below the source's root: not empty, not absolute and without '..'",
    ),
    (
        "spec: {imageArgs: {base: ''}}",
        Rule,
        "spec.imageArgs: Invalid value: imageArgs: a path below the source's root: not empty, not absolute and without '..'",
    ),
    (
        "spec: {imageArgs: {base: [image.tar]}}",
        Type,
        "spec.imageArgs.base: Invalid value: \"array\": spec.imageArgs.base in body must be of type string: \"array\"",
    ),
    (
        "spec: {imageArgs: 'base=image.tar'}",
        Type,
        "spec.imageArgs: Invalid value: \"string\": spec.imageArgs in body must be of type object: \"string\"",
    ),
    (
        "spec: {imageArgs: {a0: a, a1: a, a2: a, a3: a, a4: a, a5: a, a6: a, a7: a, a8: a, a9: a, a10: a, a11: a, a12: a, a13: a, a14: a, a15: a, a16: a}}",
        Type,
        "spec.imageArgs: Too many: 17: must have at most 16 items",
    ),
    // Stages.
    (
        "spec: {target: ''}",
        Rule,
        "spec.target: Invalid value: \"\": target: the name of a stage of the Dockerfile: letters, digits, '.', '_' and '-'",
    ),
    (
        "spec: {targetFile: ''}",
        Rule,
        "spec.targetFile: Invalid value: \"\": targetFile: must not be empty; leave it out if there is none",
    ),
    (
        "spec: {targetFile: /ci/target}",
        Rule,
        "spec.targetFile: Invalid value: \"/ci/target\": targetFile: a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {targetFile: ..}",
        Rule,
        "spec.targetFile: Invalid value: \"..\": targetFile: a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {additionalTargets: 'test,debug'}",
        Type,
        "spec.additionalTargets: Invalid value: \"string\": spec.additionalTargets in body must be of type array: \"string\"",
    ),
    (
        "spec: {additionalTargets: ['test,debug']}",
        Rule,
        "spec.additionalTargets: Invalid value: additionalTargets: names of stages of the Dockerfile: letters, digits, '.', '_' and '-'",
    ),
    (
        "spec: {additionalTargets: ['']}",
        Rule,
        "spec.additionalTargets: Invalid value: additionalTargets: names of stages of the Dockerfile: letters, digits, '.', '_' and '-'",
    ),
    (
        "spec: {additionalTargets: [../test]}",
        Rule,
        "spec.additionalTargets: Invalid value: additionalTargets: names of stages of the Dockerfile: letters, digits, '.', '_' and '-'",
    ),
    (
        "spec: {additionalTargets: [test, debug, test]}",
        Rule,
        "spec.additionalTargets: Invalid value: additionalTargets: each stage once",
    ),
    (
        "spec: {additionalTargets: [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15, t16]}",
        Type,
        "spec.additionalTargets: Too many: 17: must have at most 16 items",
    ),
    // Platforms.
    (
        "spec: {platforms: 'linux/amd64,linux/arm64'}",
        Type,
        "spec.platforms: Invalid value: \"string\": spec.platforms in body must be of type array: \"string\"",
    ),
    (
        "spec: {platforms: ['linux/amd64,linux/arm64']}",
        Rule,
        "spec.platforms: Invalid value: platforms: system and architecture, such as linux/amd64, linux/arm/v7 or arm64",
    ),
    (
        "spec: {platforms: [linux/arm/v7/x]}",
        Rule,
        "spec.platforms: Invalid value: platforms: system and architecture, such as linux/amd64, linux/arm/v7 or arm64",
    ),
    (
        "spec: {platforms: [Linux/amd64]}",
        Rule,
        "spec.platforms: Invalid value: platforms: system and architecture, such as linux/amd64, linux/arm/v7 or arm64",
    ),
    (
        "spec: {platforms: ['']}",
        Rule,
        "spec.platforms: Invalid value: platforms: system and architecture, such as linux/amd64, linux/arm/v7 or arm64",
    ),
    (
        "spec: {platforms: [linux/arm/v7/]}",
        Rule,
        "spec.platforms: Invalid value: platforms: system and architecture, such as linux/amd64, linux/arm/v7 or arm64",
    ),
    (
        "spec: {platforms: [linux/amd64, linux/amd64]}",
        Rule,
        "spec.platforms: Invalid value: platforms: each platform once",
    ),
    (
        "spec: {platforms: [linux/a0, linux/a1, linux/a2, linux/a3, linux/a4, linux/a5, linux/a6, linux/a7, linux/a8, linux/a9, linux/a10, linux/a11, linux/a12, linux/a13, linux/a14, linux/a15, linux/a16]}",
        Type,
        "spec.platforms: Too many: 17: must have at most 16 items",
    ),
    // Secrets and keys.
    (
        "spec: {secrets: [{id: npm-token}]}",
        Rule,
        "spec.secrets[0]: Invalid value: secrets: name exactly one of secret or file",
    ),
    (
        "spec: {secrets: [{id: npm-token, secret: {name: npm, key: token}, file: ci/token}]}",
        Rule,
        "spec.secrets[0]: Invalid value: secrets: name exactly one of secret or file",
    ),
    (
        "spec: {secrets: [{id: npm-token, file: a}, {id: npm-token, file: b}]}",
        Rule,
        "spec.secrets: Invalid value: secrets: each id once",
    ),
    ("spec: {secrets: [{file: ci/token}]}", Type, "spec.secrets[0].id: Required value"),
    (
        "spec: {secrets: [{id: '', file: ci/token}]}",
        Rule,
        "spec.secrets[0].id: Invalid value: \"\": secrets: an id has letters, digits, '.', '_', '/' and '-'",
    ),
    (
        "spec: {secrets: [{id: 'npm token', file: ci/token}]}",
        Rule,
        "spec.secrets[0].id: Invalid value: \"npm token\": secrets: an id has letters, digits, '.', '_', '/' and '-'",
    ),
    (
        "spec: {secrets: [{id: 'a,src=/etc/shadow', file: ci/token}]}",
        Rule,
        "spec.secrets[0].id: Invalid value: \"a,src=/etc/shadow\": secrets: an id has letters, digits, '.', '_', '/' and '-'",
    ),
    (
        "spec: {secrets: [{id: /etc/token, file: ci/token}]}",
        Rule,
        "spec.secrets[0].id: Invalid value: \"/etc/token\": secrets: an id has letters, digits, '.', '_', '/' and '-'",
    ),
    (
        "spec: {secrets: [{id: a, file: ''}]}",
        Rule,
        "spec.secrets[0].file: Invalid value: \"\": secrets: file must not be empty",
    ),
    (
        "spec: {secrets: [{id: a, file: /var/run/secrets/token}]}",
        Rule,
        "spec.secrets[0].file: Invalid value: \"/var/run/secrets/token\": secrets: file is a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {secrets: [{id: a, file: ci/../../token}]}",
        Rule,
        "spec.secrets[0].file: Invalid value: \"ci/../../token\": secrets: file is a path below the source's root: not absolute and without '..'",
    ),
    (
        "spec: {secrets: [{id: a, secret: hunter2}]}",
        Type,
        "spec.secrets[0].secret: Invalid value: \"string\": spec.secrets[0].secret in body must be of type object: \"string\"",
    ),
    (
        "spec: {secrets: [{id: a, secret: {name: npm}}]}",
        Type,
        "spec.secrets[0].secret.key: Required value",
    ),
    (
        "spec: {secrets: [{id: a, secret: {key: token}}]}",
        Type,
        "spec.secrets[0].secret.name: Required value",
    ),
    (
        "spec: {secrets: [{id: a, secret: {name: NPM_Token, key: token}}]}",
        Rule,
        "spec.secrets[0].secret.name: Invalid value: \"NPM_Token\": secret: the name of a Secret: lower-case letters, digits, '-' and '.'",
    ),
    (
        "spec: {secrets: [{id: a, secret: {name: '', key: token}}]}",
        Rule,
        "spec.secrets[0].secret.name: Invalid value: \"\": secret: the name of a Secret: lower-case letters, digits, '-' and '.'",
    ),
    (
        "spec: {secrets: [{id: a, secret: {name: other-namespace/npm, key: token}}]}",
        Rule,
        "spec.secrets[0].secret.name: Invalid value: \"other-namespace/npm\": secret: the name of a Secret: lower-case letters, digits, '-' and '.'",
    ),
    (
        "spec: {secrets: [{id: a, secret: {name: npm, key: ''}}]}",
        Rule,
        "spec.secrets[0].secret.key: Invalid value: \"\": secret: a key of a Secret has letters, digits, '-', '_' and '.'",
    ),
    (
        "spec: {secrets: [{id: a, secret: {name: npm, key: ../token}}]}",
        Rule,
        "spec.secrets[0].secret.key: Invalid value: \"../token\": secret: a key of a Secret has letters, digits, '-', '_' and '.'",
    ),
    (
        "spec: {secrets: 'npm-token=hunter2'}",
        Type,
        "spec.secrets: Invalid value: \"string\": spec.secrets in body must be of type array: \"string\"",
    ),
    (
        "spec: {secrets: [{id: a0, file: a}, {id: a1, file: a}, {id: a2, file: a}, {id: a3, file: a}, {id: a4, file: a}, {id: a5, file: a}, {id: a6, file: a}, {id: a7, file: a}, {id: a8, file: a}, {id: a9, file: a}, {id: a10, file: a}, {id: a11, file: a}, {id: a12, file: a}, {id: a13, file: a}, {id: a14, file: a}, {id: a15, file: a}, {id: a16, file: a}, {id: a17, file: a}, {id: a18, file: a}, {id: a19, file: a}, {id: a20, file: a}, {id: a21, file: a}, {id: a22, file: a}, {id: a23, file: a}, {id: a24, file: a}, {id: a25, file: a}, {id: a26, file: a}, {id: a27, file: a}, {id: a28, file: a}, {id: a29, file: a}, {id: a30, file: a}, {id: a31, file: a}, {id: a32, file: a}]}",
        Type,
        "spec.secrets: Too many: 33: must have at most 32 items",
    ),
    (
        "spec: {ssh: default}",
        Type,
        "spec.ssh: Invalid value: \"string\": spec.ssh in body must be of type array: \"string\"",
    ),
    ("spec: {ssh: [{id: default}]}", Type, "spec.ssh[0].secret: Required value"),
    (
        "spec: {ssh: [{id: '', secret: {name: deploy-key, key: ssh-privatekey}}]}",
        Rule,
        "spec.ssh[0].id: Invalid value: \"\": ssh: an id has letters, digits, '.', '_' and '-'",
    ),
    (
        "spec: {ssh: [{id: 'default=/root/.ssh/id_rsa', secret: {name: deploy-key, key: ssh-privatekey}}]}",
        Rule,
        "spec.ssh[0].id: Invalid value: \"default=/root/.ssh/id_rsa\": ssh: an id has letters, digits, '.', '_' and '-'",
    ),
    (
        "spec: {ssh: [{secret: {name: Deploy-Key, key: ssh-privatekey}}]}",
        Rule,
        "spec.ssh[0].secret.name: Invalid value: \"Deploy-Key\": secret: the name of a Secret: lower-case letters, digits, '-' and '.'",
    ),
    (
        "spec: {ssh: [{secret: {name: deploy-key, key: .ssh/id_rsa}}]}",
        Rule,
        "spec.ssh[0].secret.key: Invalid value: \".ssh/id_rsa\": secret: a key of a Secret has letters, digits, '-', '_' and '.'",
    ),
    (
        "spec: {ssh: [{secret: {name: a, key: b}}, {secret: {name: a, key: b}}, {secret: {name: a, key: b}}, {secret: {name: a, key: b}}, {secret: {name: a, key: b}}, {secret: {name: a, key: b}}, {secret: {name: a, key: b}}, {secret: {name: a, key: b}}, {secret: {name: a, key: b}}]}",
        Type,
        "spec.ssh: Too many: 9: must have at most 8 items",
    ),
    // Network: hosts, mirrors, registries, proxies.
    (
        "spec: {addHosts: 'git.internal=10.0.0.7'}",
        Type,
        "spec.addHosts: Invalid value: \"string\": spec.addHosts in body must be of type object: \"string\"",
    ),
    (
        "spec: {addHosts: ['git.internal=10.0.0.7']}",
        Type,
        "spec.addHosts: Invalid value: \"array\": spec.addHosts in body must be of type object: \"array\"",
    ),
    (
        "spec: {addHosts: {'git_internal': 10.0.0.7}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: a host name has letters, digits, '.' and '-'",
    ),
    (
        "spec: {addHosts: {'https://git.internal': 10.0.0.7}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: a host name has letters, digits, '.' and '-'",
    ),
    (
        "spec: {addHosts: {'': 10.0.0.7}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: a host name has letters, digits, '.' and '-'",
    ),
    (
        "spec: {addHosts: {git.internal: github.com}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: ''}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: 10.0.0}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: '10.0.0.7:443'}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: 10.0.0.0/24}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: 10.0.0.256}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: 10.0.0.7.}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: ':::'}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: 'fe80::1%eth0'}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: '10.0.0.7,10.0.0.8'}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {addHosts: {git.internal: host-gateway}}",
        Rule,
        "spec.addHosts: Invalid value: addHosts: the value is an IPv4 or IPv6 address",
    ),
    (
        "spec: {registryMirrors: mirror.example.com}",
        Type,
        "spec.registryMirrors: Invalid value: \"string\": spec.registryMirrors in body must be of type object: \"string\"",
    ),
    (
        "spec: {registryMirrors: [mirror.example.com]}",
        Type,
        "spec.registryMirrors: Invalid value: \"array\": spec.registryMirrors in body must be of type object: \"array\"",
    ),
    (
        "spec: {registryMirrors: {docker.io: mirror.example.com}}",
        Type,
        "spec.registryMirrors.docker.io: Invalid value: \"string\": spec.registryMirrors.docker.io in body must be of type array: \"string\"",
    ),
    (
        "spec: {registryMirrors: {docker.io: ['https://mirror.example.com']}}",
        Rule,
        "spec.registryMirrors: Invalid value: registryMirrors: a mirror is a host, with port and path if need be, without http:// or https://; how it is reached stands in registries",
    ),
    (
        "spec: {registryMirrors: {docker.io: ['a.example.com,b.example.com']}}",
        Rule,
        "spec.registryMirrors: Invalid value: registryMirrors: a mirror is a host, with port and path if need be, without http:// or https://; how it is reached stands in registries",
    ),
    (
        "spec: {registryMirrors: {docker.io: ['me:secret@mirror.example.com']}}",
        Rule,
        "spec.registryMirrors: Invalid value: registryMirrors: a mirror is a host, with port and path if need be, without http:// or https://; how it is reached stands in registries",
    ),
    (
        "spec: {registryMirrors: {docker.io: ['']}}",
        Rule,
        "spec.registryMirrors: Invalid value: registryMirrors: a mirror is a host, with port and path if need be, without http:// or https://; how it is reached stands in registries",
    ),
    (
        "spec: {registryMirrors: {'https://docker.io': [mirror.example.com]}}",
        Rule,
        "spec.registryMirrors: Invalid value: registryMirrors: a registry is a host with a port if need be, such as docker.io",
    ),
    (
        "spec: {registryMirrors: {docker.io/library: [mirror.example.com]}}",
        Rule,
        "spec.registryMirrors: Invalid value: registryMirrors: a registry is a host with a port if need be, such as docker.io",
    ),
    (
        "spec: {registryMirrors: {'': [mirror.example.com]}}",
        Rule,
        "spec.registryMirrors: Invalid value: registryMirrors: a registry is a host with a port if need be, such as docker.io",
    ),
    (
        "spec: {registryMirrors: {docker.io: [m0, m1, m2, m3, m4, m5, m6, m7, m8]}}",
        Type,
        "spec.registryMirrors.docker.io: Too many: 9: must have at most 8 items",
    ),
    (
        "spec: {registryMirrors: {r0: [m], r1: [m], r2: [m], r3: [m], r4: [m], r5: [m], r6: [m], r7: [m], r8: [m], r9: [m], r10: [m], r11: [m], r12: [m], r13: [m], r14: [m], r15: [m], r16: [m]}}",
        Type,
        "spec.registryMirrors: Too many: 17: must have at most 16 items",
    ),
    (
        "spec: {registries: {'https://registry.example.com': {http: true}}}",
        Rule,
        "spec.registries: Invalid value: registries: a host with a port if need be, such as registry.example.com:5000",
    ),
    (
        "spec: {registries: {registry.example.com/my-team: {insecure: true}}}",
        Rule,
        "spec.registries: Invalid value: registries: a host with a port if need be, such as registry.example.com:5000",
    ),
    (
        "spec: {registries: {'*.example.com': {insecure: true}}}",
        Rule,
        "spec.registries: Invalid value: registries: a host with a port if need be, such as registry.example.com:5000",
    ),
    (
        "spec: {registries: ['registry.example.com']}",
        Type,
        "spec.registries: Invalid value: \"array\": spec.registries in body must be of type object: \"array\"",
    ),
    (
        "spec: {registries: {registry.example.com: {http: 'true'}}}",
        Type,
        "spec.registries.registry.example.com.http: Invalid value: \"string\": spec.registries.registry.example.com.http in body must be of type boolean: \"string\"",
    ),
    (
        "spec: {registries: {registry.example.com: {insecure: 1}}}",
        Type,
        "spec.registries.registry.example.com.insecure: Invalid value: \"integer\": spec.registries.registry.example.com.insecure in body must be of type boolean: \"integer\"",
    ),
    (
        "spec: {registries: {registry.example.com: {ca: my-ca}}}",
        Type,
        "spec.registries.registry.example.com.ca: Invalid value: \"string\": spec.registries.registry.example.com.ca in body must be of type object: \"string\"",
    ),
    (
        "spec: {registries: {registry.example.com: {ca: {key: ca.crt}}}}",
        Type,
        "spec.registries.registry.example.com.ca.name: Required value",
    ),
    (
        "spec: {registries: {registry.example.com: {ca: {name: My_CA}}}}",
        Rule,
        "spec.registries[registry.example.com].ca.name: Invalid value: \"My_CA\": ca.name: the name of a ConfigMap: lower-case letters, digits, '-' and '.'",
    ),
    (
        "spec: {registries: {registry.example.com: {ca: {name: my-ca, key: certs/ca.crt}}}}",
        Rule,
        "spec.registries[registry.example.com].ca.key: Invalid value: \"certs/ca.crt\": ca.key: a key of a ConfigMap has letters, digits, '-', '_' and '.'",
    ),
    (
        "spec: {registries: {registry.example.com: {ca: {name: my-ca, key: ''}}}}",
        Rule,
        "spec.registries[registry.example.com].ca.key: Invalid value: \"\": ca.key: a key of a ConfigMap has letters, digits, '-', '_' and '.'",
    ),
    (
        "spec: {registries: {a0: {}, a1: {}, a2: {}, a3: {}, a4: {}, a5: {}, a6: {}, a7: {}, a8: {}, a9: {}, a10: {}, a11: {}, a12: {}, a13: {}, a14: {}, a15: {}, a16: {}}}",
        Type,
        "spec.registries: Too many: 17: must have at most 16 items",
    ),
    (
        "spec: {proxy: 'http://proxy.example.com:3128'}",
        Type,
        "spec.proxy: Invalid value: \"string\": spec.proxy in body must be of type object: \"string\"",
    ),
    (
        "spec: {proxy: {httpProxy: 'http://me:secret@proxy.example.com:3128'}}",
        Rule,
        "spec.proxy: Invalid value: proxy: an http or https address such as http://proxy.example.com:3128, without user name or password: everyone who can read the OciBuild would see them",
    ),
    (
        "spec: {proxy: {httpsProxy: 'http://me@proxy.example.com:3128'}}",
        Rule,
        "spec.proxy: Invalid value: proxy: an http or https address such as http://proxy.example.com:3128, without user name or password: everyone who can read the OciBuild would see them",
    ),
    (
        "spec: {proxy: {httpProxy: 'proxy.example.com:3128'}}",
        Rule,
        "spec.proxy: Invalid value: proxy: an http or https address such as http://proxy.example.com:3128, without user name or password: everyone who can read the OciBuild would see them",
    ),
    (
        "spec: {proxy: {httpsProxy: 'socks5://proxy.example.com:1080'}}",
        Rule,
        "spec.proxy: Invalid value: proxy: an http or https address such as http://proxy.example.com:3128, without user name or password: everyone who can read the OciBuild would see them",
    ),
    (
        "spec: {proxy: {httpProxy: 'http://proxy.example.com:3128/path'}}",
        Rule,
        "spec.proxy: Invalid value: proxy: an http or https address such as http://proxy.example.com:3128, without user name or password: everyone who can read the OciBuild would see them",
    ),
    (
        "spec: {proxy: {httpProxy: \"http://proxy.example.com:3128\\nA=b\"}}",
        Rule,
        "spec.proxy: Invalid value: proxy: an http or https address such as http://proxy.example.com:3128, without user name or password: everyone who can read the OciBuild would see them",
    ),
    (
        "spec: {proxy: {noProxy: [.svc, .cluster.local]}}",
        Type,
        "spec.proxy.noProxy: Invalid value: \"array\": spec.proxy.noProxy in body must be of type string: \"array\"",
    ),
    // What else the image is made of.
    (
        "spec: {attestations: {}}",
        Rule,
        "spec.attestations: Invalid value: attestations: name provenance, sbom or both",
    ),
    (
        "spec: {attestations: true}",
        Type,
        "spec.attestations: Invalid value: \"boolean\": spec.attestations in body must be of type object: \"boolean\"",
    ),
    (
        "spec: {attestations: {provenance: true}}",
        Type,
        "spec.attestations.provenance: Invalid value: \"boolean\": spec.attestations.provenance in body must be of type string: \"boolean\", spec.attestations.provenance: Unsupported value: true: supported values: \"min\", \"max\"",
    ),
    (
        "spec: {attestations: {provenance: full}}",
        Type,
        "spec.attestations.provenance: Unsupported value: \"full\": supported values: \"min\", \"max\"",
    ),
    (
        "spec: {attestations: {sbom: true}}",
        Type,
        "spec.attestations.sbom: Invalid value: \"boolean\": spec.attestations.sbom in body must be of type object: \"boolean\"",
    ),
    (
        "spec: {attestations: {sbom: {generator: ''}}}",
        Rule,
        "spec.attestations.sbom.generator: Invalid value: \"\": attestations.sbom.generator: the reference of an image",
    ),
    (
        "spec: {attestations: {sbom: {generator: 'scanner,src=/etc'}}}",
        Rule,
        "spec.attestations.sbom.generator: Invalid value: \"scanner,src=/etc\": attestations.sbom.generator: the reference of an image",
    ),
    (
        "spec: {sourceDateEpoch: -1}",
        Bound,
        "spec.sourceDateEpoch: Invalid value: -1: spec.sourceDateEpoch in body should be greater than or equal to 0",
    ),
    (
        "spec: {sourceDateEpoch: 253402300800}",
        Bound,
        "spec.sourceDateEpoch: Invalid value: 253402300800: spec.sourceDateEpoch in body should be less than or equal to 253402300799",
    ),
    (
        "spec: {sourceDateEpoch: '1700000000'}",
        Type,
        "spec.sourceDateEpoch: Invalid value: \"string\": spec.sourceDateEpoch in body must be of type integer: \"string\"",
    ),
    (
        "spec: {sourceDateEpoch: 2026-01-01}",
        Type,
        "spec.sourceDateEpoch: Invalid value: \"string\": spec.sourceDateEpoch in body must be of type integer: \"string\"",
    ),
    (
        "spec: {noCache: 'true'}",
        Type,
        "spec.noCache: Invalid value: \"string\": spec.noCache in body must be of type boolean: \"string\"",
    ),
    (
        "spec: {debug: 1}",
        Type,
        "spec.debug: Invalid value: \"integer\": spec.debug in body must be of type boolean: \"integer\"",
    ),
    (
        "spec: {buildkitConfig: [debug]}",
        Type,
        "spec.buildkitConfig: Invalid value: \"array\": spec.buildkitConfig in body must be of type string: \"array\"",
    ),
    (
        "spec: {buildkitImage: [moby/buildkit]}",
        Type,
        "spec.buildkitImage: Invalid value: \"array\": spec.buildkitImage in body must be of type string: \"array\"",
    ),
    (
        "spec: {buildkitImage: 'moby/buildkit latest'}",
        Rule,
        "spec.buildkitImage: Invalid value: \"moby/buildkit latest\": buildkitImage: the reference of an image",
    ),
    (
        "spec: {buildkitImage: ''}",
        Rule,
        "spec.buildkitImage: Invalid value: \"\": buildkitImage: the reference of an image",
    ),
    // How it runs.
    (
        "spec: {ttlAfterFinished: 30 days}",
        Rule,
        "spec.ttlAfterFinished: Invalid value: \"30 days\": ttlAfterFinished: hours, minutes and seconds up to 8760h, for example 24h or 30m",
    ),
    (
        "spec: {output: {download: {timeout: soon}}}",
        Rule,
        "spec.output.download.timeout: Invalid value: \"soon\": output.download.timeout: hours, minutes and seconds between 1s and 24h, for example 10m",
    ),
    (
        "spec: {lease: 5s}",
        Rule,
        "spec.lease: Invalid value: \"5s\": lease: hours, minutes and seconds between 10s and 24h, for example 60s",
    ),
    (
        "spec: {timeout: 1d}",
        Rule,
        "spec.timeout: Invalid value: \"1d\": timeout: hours, minutes and seconds between 1s and 168h, for example 30m or 1h30m",
    ),
    (
        "spec: {deadlines: {queue: 'soon'}}",
        Rule,
        "spec.deadlines.queue: Invalid value: \"soon\": deadlines.queue: hours, minutes and seconds between 1s and 168h, for example 6h",
    ),
    (
        "spec: {deadlines: {claim: '0s'}}",
        Rule,
        "spec.deadlines.claim: Invalid value: \"0s\": deadlines.claim: hours, minutes and seconds between 1s and 168h, for example 5m",
    ),
    (
        "spec: {deadlines: {schedule: ''}}",
        Rule,
        "spec.deadlines.schedule: Invalid value: \"\": deadlines.schedule: hours, minutes and seconds between 1s and 168h, for example 2h",
    ),
    (
        "spec: {deadlines: {start: '1d'}}",
        Rule,
        "spec.deadlines.start: Invalid value: \"1d\": deadlines.start: hours, minutes and seconds between 1s and 168h, for example 15m",
    ),
    (
        "spec: {deadlines: {daemon: '1.5s'}}",
        Rule,
        "spec.deadlines.daemon: Invalid value: \"1.5s\": deadlines.daemon: hours, minutes and seconds between 1s and 168h, for example 1m",
    ),
    (
        "spec: {deadlines: {source: '30'}}",
        Rule,
        "spec.deadlines.source: Invalid value: \"30\": deadlines.source: hours, minutes and seconds between 1s and 168h, for example 10m",
    ),
    (
        "spec: {deadlines: {build: '169h'}}",
        Rule,
        "spec.deadlines.build: Invalid value: \"169h\": deadlines.build: hours, minutes and seconds between 1s and 168h, for example 45m",
    ),
    (
        "spec: {deadlines: {export: '1m1h'}}",
        Rule,
        "spec.deadlines.export: Invalid value: \"1m1h\": deadlines.export: hours, minutes and seconds between 1s and 168h, for example 20m",
    ),
    (
        "spec: {deadlines: {push: '-1s'}}",
        Rule,
        "spec.deadlines.push: Invalid value: \"-1s\": deadlines.push: hours, minutes and seconds between 1s and 168h, for example 20m",
    ),
    (
        "spec: {timeout: 169h}",
        Rule,
        "spec.timeout: Invalid value: \"169h\": timeout: hours, minutes and seconds between 1s and 168h, for example 30m or 1h30m",
    ),
    (
        "spec: {retries: 11}",
        Bound,
        "spec.retries: Invalid value: 11: spec.retries in body should be less than or equal to 10",
    ),
    (
        "spec: {retries: -1}",
        Bound,
        "spec.retries: Invalid value: -1: spec.retries in body should be greater than or equal to 0",
    ),
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
        "spec.source: Invalid value: source: name exactly one of persistentVolumeClaim, git, http, configMap, files, image or upload",
    ),
    (
        "spec: {source: {configMap: {name: a}}}",
        Rule,
        "spec.source: Invalid value: source: name exactly one of persistentVolumeClaim, git, http, configMap, files, image or upload",
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
    (
        "spec: {source: {files: null, http: {url: 'https://example.com/a.tar'}}}",
        Type,
        "spec.source.http.sha256: Required value",
    ),
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
    (
        "spec: {source: {image: {reference: 'registry.example.com/sources:v1'}}}",
        Rule,
        "spec.source: Invalid value: source: name exactly one of persistentVolumeClaim, git, http, configMap, files, image or upload",
    ),
    (
        "spec: {source: {files: null, image: 'registry.example.com/sources:v1'}}",
        Type,
        "spec.source.image: Invalid value: \"string\": spec.source.image in body must be of type object: \"string\"",
    ),
    (
        "spec: {source: {files: null, image: {}}}",
        Type,
        "spec.source.image.reference: Required value",
    ),
    (
        "spec: {source: {files: null, image: {reference: ''}}}",
        Rule,
        "spec.source.image.reference: Invalid value: \"\": source.image.reference: registry, repository and tag or digest, such as registry.example.com/my-team/sources:v1",
    ),
    (
        "spec: {source: {files: null, image: {reference: 'https://registry.example.com/sources:v1'}}}",
        Rule,
        "spec.source.image.reference: Invalid value: \"https://registry.example.com/sources:v1\": source.image.reference: registry, repository and tag or digest, such as registry.example.com/my-team/sources:v1",
    ),
    (
        "spec: {source: {files: null, image: {reference: 'oci://registry.example.com/sources:v1'}}}",
        Rule,
        "spec.source.image.reference: Invalid value: \"oci://registry.example.com/sources:v1\": source.image.reference: registry, repository and tag or digest, such as registry.example.com/my-team/sources:v1",
    ),
    (
        "spec: {source: {files: null, image: {reference: 'me:secret@registry.example.com/sources:v1'}}}",
        Rule,
        "spec.source.image.reference: Invalid value: \"me:secret@registry.example.com/sources:v1\": source.image.reference: registry, repository and tag or digest, such as registry.example.com/my-team/sources:v1",
    ),
    (
        "spec: {source: {files: null, image: {reference: registry.example.com/Sources}}}",
        Rule,
        "spec.source.image.reference: Invalid value: \"registry.example.com/Sources\": source.image.reference: registry, repository and tag or digest, such as registry.example.com/my-team/sources:v1",
    ),
    (
        "spec: {source: {files: null, image: {reference: 'registry.example.com/sources@sha256:abc'}}}",
        Rule,
        "spec.source.image.reference: Invalid value: \"registry.example.com/sources@sha256:abc\": source.image.reference: registry, repository and tag or digest, such as registry.example.com/my-team/sources:v1",
    ),
    (
        "spec: {source: {files: null, image: {reference: 'registry.example.com/sources:v1 '}}}",
        Rule,
        "spec.source.image.reference: Invalid value: \"registry.example.com/sources:v1 \": source.image.reference: registry, repository and tag or digest, such as registry.example.com/my-team/sources:v1",
    ),
    // Where the tar goes.
    (
        "spec: {output: {persistentVolumeClaim: {claimName: a}, claimTemplate: {}}}",
        Rule,
        "spec.output: Invalid value: output: name at most one of persistentVolumeClaim, claimTemplate, download or none",
    ),
    (
        "spec: {output: {none: {}}}",
        Rule,
        "spec: Invalid value: output.none: only with push: true, else the image would be lost",
    ),
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
    "spec: {cache: {registry: {reference: 'registry.example.com:5000/cache/my-app:main', export: max}}}",
    "spec: {cache: {registry: {reference: localhost/my-app}}}",
    "spec: {context: src, dockerfile: src/Dockerfile.production, imageName: my-team/my_app.web, imageTag: v1.0.0-rc.1}",
    "spec: {push: true, registry: docker.io/my-team, registrySecrets: [docker-hub, my.mirror]}",
    "spec: {push: true, registry: registry.example.com, imageName: mirror.example.com/app}",
    "spec: {push: true, registry: 'registry.example.com:5000', output: {none: {}}}",
    "spec: {push: true, registry: localhost}",
    "spec: {buildArgs: {APP_VERSION: v1.0.0, EMPTY: '', LINES: \"a\\nb\"}, labels: {org.opencontainers.image.source: 'https://x/?a=b'}}",
    "spec: {timeout: 1h30m, retries: 0, isolation: rootless, target: build}",
    "spec: {timeout: 168h, retries: 10, isolation: auto}",
    "spec: {deadlines: {}}",
    "spec: {deadlines: {queue: 168h, claim: 1s, schedule: 1h1m1s, start: 5m, daemon: 90s, source: 1h, build: 2h, export: 3m, push: 10m}}",
    "spec: {suspend: true, ttlAfterFinished: 0s, lease: 10s}",
    "spec: {source: {files: null, upload: {}}, output: {download: {}}}",
    "spec: {output: {download: {timeout: 1h}}}",
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
    // The form of the image's files.
    "spec: {outputFormat: docker}",
    "spec: {outputFormat: docker, platforms: [linux/arm64], unpackRootfs: true}",
    "spec: {outputFormat: oci, platforms: [linux/amd64, linux/arm64, linux/arm/v7], attestations: {provenance: min, sbom: {}}}",
    "spec: {outputFormat: oci, unpackRootfs: true}",
    "spec: {unpackRootfs: true, output: {persistentVolumeClaim: {claimName: images}}}",
    "spec: {unpackRootfs: false, platforms: [linux/amd64, linux/arm64], push: true, registry: docker.io/my-team, output: {none: {}}}",
    "spec: {attestations: {provenance: max}}",
    "spec: {attestations: {sbom: {generator: 'registry.example.com:5000/scanner:v1@sha256:0000000000000000000000000000000000000000000000000000000000000abc'}}}",
    "spec: {compression: uncompressed}",
    "spec: {compressionLevel: 9}",
    "spec: {platforms: [arm64]}",
    "spec: {compression: gzip, compressionLevel: 9}",
    "spec: {compression: estargz, compressionLevel: 0}",
    "spec: {compression: zstd, compressionLevel: 22}",
    // Tags, labels and annotations.
    "spec: {extraTags: [v1, v1.2, _, 1.0-RC.1]}",
    "spec: {labelsFile: ci/labels, labels: {a: b}}",
    "spec: {annotations: {org.opencontainers.image.source: 'https://github.com/my-team/my-app?a=b,c', dev.example/a_b-c: '', a: 'two words'}}",
    // Build arguments.
    "spec: {buildArgs: {a: b}, buildArgsFile: build-args.yml}",
    "spec: {buildArgsFile: ./ci/..args}",
    "spec: {imageArgs: {base_image: base/image.tar, BASE2: base/layout, _: a b/image.tar}}",
    // Stages and platforms.
    "spec: {target: '0', targetFile: ci/target}",
    "spec: {target: release, additionalTargets: [test, Debug_1, release.small, '0']}",
    "spec: {platforms: [linux/arm/v6, linux/arm/v7, windows/amd64]}",
    // Secrets and keys.
    "spec: {secrets: [{id: npm-token, secret: {name: npm, key: token}}, {id: .npmrc_, file: ci/.npmrc}, {id: a/b, file: a}]}",
    "spec: {secrets: [{id: NPM_TOKEN, secret: {name: npm.example, key: .npmrc}}]}",
    "spec: {ssh: [{secret: {name: deploy-key, key: ssh-privatekey}}]}",
    "spec: {ssh: [{id: github, secret: {name: a, key: id_ed25519}}, {id: github, secret: {name: b, key: id_rsa}}]}",
    // Network: hosts, mirrors, registries, proxies.
    "spec: {addHosts: {git.internal: 10.0.0.7, Cache: 255.255.255.255, 1.example: '::1', a: 'fe80::a:1', b: '1:2:3:4:5:6:7:8', c: '::ffff:10.0.0.7', d: '::'}}",
    "spec: {registryMirrors: {docker.io: [mirror.example.com, 'localhost:5000', mirror.example.com/proxy/docker.io], 'registry.example.com:5000': []}}",
    "spec: {registries: {registry.example.com: {ca: {name: my-ca}}, 'localhost:5000': {http: true}, a: {insecure: true, http: false}, b: {ca: {name: my.ca, key: root_ca.pem}}}}",
    "spec: {proxy: {}}",
    "spec: {proxy: {httpProxy: 'http://proxy.example.com:3128', httpsProxy: 'https://proxy.example.com/', noProxy: '.svc,10.0.0.0/8,localhost'}}",
    "spec: {proxy: {httpProxy: '', noProxy: ''}}",
    // What else the image is made of, and by what.
    "spec: {sourceDateEpoch: 0, noCache: true, debug: true}",
    "spec: {sourceDateEpoch: 253402300799, noCache: false, debug: false}",
    "spec: {buildkitConfig: \"[worker.oci]\\n  max-parallelism = 4\\n\", buildkitImage: 'docker.io/moby/buildkit:v0.34.2-rootless'}",
    "spec: {buildkitImage: 'localhost:5000/buildkit@sha256:0000000000000000000000000000000000000000000000000000000000000abc'}",
    // The source: image.
    "spec: {source: {files: null, image: {reference: alpine}}}",
    "spec: {source: {files: null, image: {reference: 'registry.example.com:5000/my-team/sources:v1'}}}",
    "spec: {source: {files: null, image: {reference: 'localhost/my_team/sources__a@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'}}}",
    "spec: {source: {files: null, image: {reference: 'ghcr.io/my-team/manifests:v1@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'}}}",
    "spec: {pod: null, output: null, timeout: null, registry: null, source: {git: null}}",
];

/// The manifest with a change.
pub fn manifest(change: &str) -> Value {
    let mut manifest: Value = serde_saphyr::from_str(BASE).unwrap();
    let change: Value =
        serde_saphyr::from_str(change).unwrap_or_else(|error| panic!("{change}: {error}"));
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
            merge(
                fields.entry(name).or_insert_with(|| Value::Object(serde_json::Map::new())),
                change,
            );
        }
    }
}
