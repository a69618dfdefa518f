//! The arguments of buildctl. Pure. Whatever a tenant wrote stands behind a `--flag=` or a `key=`, never alone, and is quoted
//! where buildctl reads CSV. What may end in white space is an argument of its own, after that of its flag: buildctl's parser
//! trims what follows `--flag=`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use super::locate::Located;
use crate::{
    api::{Cache, OutputFormat},
    plan::{
        Digest, ImageReference,
        instructions::{ImageForm, Instructions, RegistryInstructions},
    },
};

/// One run of buildctl: a stage, and what becomes of it.
pub struct Target<'a> {
    /// The stage; none is the last of the Dockerfile.
    pub stage: Option<&'a str>,
    /// Names of the image.
    pub references: &'a [ImageReference],
    /// Whether it is the build's own stage, not an additional one.
    pub is_main: bool,
    /// Whether it is pushed.
    pub is_pushed: bool,
    /// Whether its tar is written.
    pub has_tar: bool,
}

/// What a build is given by the files of its source and the mounted Secrets.
#[derive(Default)]
pub struct Given {
    /// Build arguments, those of the file among them.
    pub build_args: BTreeMap<String, String>,
    /// Labels, those of the file among them.
    pub labels: BTreeMap<String, String>,
    /// Images that FROM can use.
    pub images: Vec<GivenImage>,
    /// Build secrets: id and file.
    pub secrets: Vec<(String, PathBuf)>,
    /// Agents: id and the files of its keys.
    pub ssh: BTreeMap<String, Vec<PathBuf>>,
}

/// An image of the source that FROM can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenImage {
    /// Name of the build argument.
    pub argument: String,
    /// Folder of its OCI layout.
    pub layout: PathBuf,
    /// Digest of its manifest or index.
    pub digest: Digest,
}

/// Where BuildKit writes the tar of the image's files: buildctl's standard input, which is a pipe to the runner. Its standard
/// output takes the tar of the image.
const BACK_CHANNEL: &str = "/proc/self/fd/0";

/// Arguments that build one stage.
pub fn build_arguments(
    instructions: &Instructions,
    located: &Located,
    given: &Given,
    target: &Target<'_>,
    metadata_file: &Path,
) -> Vec<OsString> {
    let parameters = &instructions.parameters;
    let mut arguments = words(&["build", "--progress=rawjson", "--frontend=dockerfile.v0"]);
    arguments.extend(local("context", &located.context));
    arguments.extend(local("dockerfile", &located.dockerfile_directory));
    arguments.extend(option("filename", &located.dockerfile_name));
    arguments.extend(options("build-arg:", &build_args(instructions, given)));
    arguments.extend(options("label:", &given.labels));
    arguments.extend(target.stage.into_iter().flat_map(|stage| option("target", stage)));
    if !parameters.platforms.is_empty() {
        arguments.extend(option("platform", &parameters.platforms.join(",")));
    }
    if !parameters.add_hosts.is_empty() {
        let hosts: Vec<_> = parameters
            .add_hosts
            .iter()
            .map(|(host, address)| format!("{host}={address}"))
            .collect();
        arguments.extend(option("add-hosts", &hosts.join(",")));
    }
    if parameters.no_cache {
        arguments.extend(option("no-cache", ""));
    }
    arguments.extend(cache(parameters.cache.as_ref(), target));
    arguments.extend(attestations(&instructions.image));
    for (number, image) in given.images.iter().enumerate() {
        let name = image_name(number);
        arguments.extend(option(
            &format!("context:{name}"),
            &format!("oci-layout://{name}@{}", image.digest),
        ));
        arguments.push(joined(&format!("--oci-layout={name}="), &image.layout));
    }
    for (id, file) in &given.secrets {
        arguments
            .push(csv("--secret=", &[("id", id.as_bytes()), ("src", file.as_os_str().as_bytes())]));
    }
    for (id, files) in &given.ssh {
        let files: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
        arguments.push(OsString::from(format!("--ssh={id}={}", files.join(","))));
    }
    arguments.extend(authorities(&instructions.registries));
    arguments.push(joined("--metadata-file=", metadata_file));
    arguments.extend(outputs(instructions, given, target));
    arguments
}

/// Arguments that fetch a source, whose LLB comes on the standard input, into a folder.
pub fn fetch_arguments(
    folder: &Path,
    registries: &BTreeMap<String, RegistryInstructions>,
) -> Vec<OsString> {
    let mut arguments = words(&["build", "--progress=rawjson"]);
    arguments.extend(authorities(registries));
    arguments.push(joined("--output=type=local,dest=", folder));
    arguments
}

/// The arguments of the Dockerfile, with those that BuildKit itself reads.
fn build_args(instructions: &Instructions, given: &Given) -> BTreeMap<String, String> {
    let parameters = &instructions.parameters;
    let mut arguments = BTreeMap::new();
    if let Some(proxy) = &parameters.proxy {
        let proxies = [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("NO_PROXY", &proxy.no_proxy),
        ];
        arguments.extend(
            proxies.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))),
        );
    }
    arguments.extend(given.build_args.clone());
    if let Some(epoch) = parameters.source_date_epoch {
        arguments.insert(SOURCE_DATE_EPOCH.to_owned(), epoch.to_string());
    }
    arguments.extend(
        given
            .images
            .iter()
            .enumerate()
            .map(|(number, image)| (image.argument.clone(), image_name(number))),
    );
    arguments
}

const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What FROM finds in the place of an image argument: a name that BuildKit takes from the layout, not from a registry.
pub fn image_name(number: usize) -> String {
    format!("{IMAGE_NAME}{number}")
}

/// Begin of these names, by which what BuildKit says of them is known.
pub const IMAGE_NAME: &str = "ocibuild-image-arg-";

/// The cache is read for every stage, and written for the main one alone: a second export would take the place of the first.
fn cache(cache: Option<&Cache>, target: &Target<'_>) -> Vec<OsString> {
    let Some(Cache { registry }) = cache else { return Vec::new() };
    let reference = registry.reference.as_bytes();
    let mut arguments = vec![csv("--import-cache=", &[("type", b"registry"), ("ref", reference)])];
    if let Some(mode) = registry.export.filter(|_| target.is_main) {
        let mode = ("mode", mode.as_str().as_bytes());
        arguments.push(csv(
            "--export-cache=",
            &[("type", b"registry"), ("ref", reference), mode, ("ignore-error", b"true")],
        ));
    }
    arguments
}

fn attestations(image: &ImageForm) -> Vec<OsString> {
    let Some(attestations) = &image.attestations else { return Vec::new() };
    let provenance = attestations
        .provenance
        .map(|provenance| option("attest:provenance", &format!("mode={}", provenance.as_str())));
    let sbom = attestations.sbom.as_ref().map(|sbom| {
        let generator = sbom.generator.as_ref().map(|generator| format!("generator={generator}"));
        option("attest:sbom", &generator.unwrap_or_default())
    });
    provenance.into_iter().chain(sbom).flatten().collect()
}

/// buildctl fetches the tokens of registries, not the daemon: it needs their authorities too.
fn authorities(registries: &BTreeMap<String, RegistryInstructions>) -> Vec<OsString> {
    let mut arguments = Vec::new();
    for (host, registry) in registries {
        let mut fields = vec![("host", host.as_bytes())];
        if let Some(ca) = &registry.ca {
            fields.push(("ca", ca.path.as_os_str().as_bytes()));
        }
        if registry.insecure {
            fields.push(("insecure", b"true"));
        }
        if fields.len() > 1 {
            arguments.push(csv("--registry-auth-tlscontext=", &fields));
        }
    }
    arguments
}

fn outputs(instructions: &Instructions, given: &Given, target: &Target<'_>) -> Vec<OsString> {
    let image = &instructions.image;
    let names: Vec<_> = target.references.iter().map(ToString::to_string).collect();
    let names = names.join(",");
    // All outputs describe the same manifest: with the same options they have the same digest.
    let mut same: Vec<(String, String)> =
        vec![("name".to_owned(), names), ("oci-mediatypes".to_owned(), "true".to_owned())];
    if let Some(compression) = image.compression {
        same.push(("compression".to_owned(), compression.as_str().to_owned()));
    }
    if let Some(level) = image.compression_level {
        same.push(("compression-level".to_owned(), level.to_string()));
    }
    if instructions.parameters.source_date_epoch.is_some()
        || given.build_args.contains_key(SOURCE_DATE_EPOCH)
    {
        same.push(("rewrite-timestamp".to_owned(), "true".to_owned()));
    }
    let is_index = instructions.parameters.platforms.len() > 1 || image.attestations.is_some();
    for (name, value) in &image.annotations {
        same.push((format!("annotation.{name}"), value.clone()));
        if is_index {
            same.push((format!("annotation-index.{name}"), value.clone()));
        }
    }
    let with = |own: &[(&str, &str)]| {
        let own = own.iter().map(|(key, value)| (*key, value.as_bytes()));
        let same = same.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        csv("--output=", &own.chain(same).collect::<Vec<_>>())
    };
    let mut outputs = Vec::new();
    if target.is_pushed {
        outputs.push(with(&[("type", "image"), ("push", "true")]));
    }
    if target.has_tar {
        let kind = match image.format {
            OutputFormat::Docker => "docker",
            OutputFormat::Oci => "oci",
        };
        outputs.push(with(&[("type", kind), ("dest", "-")]));
    }
    if target.has_tar && image.unpack_rootfs {
        outputs.push(csv("--output=", &[("type", b"tar"), ("dest", BACK_CHANNEL.as_bytes())]));
    }
    outputs
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn option(key: &str, value: &str) -> [OsString; 2] {
    [OsString::from("--opt"), OsString::from(format!("{key}={value}"))]
}

fn local(name: &str, folder: &Path) -> [OsString; 2] {
    [OsString::from("--local"), joined(&format!("{name}="), folder)]
}

fn options(prefix: &str, values: &BTreeMap<String, String>) -> impl Iterator<Item = OsString> {
    values.iter().flat_map(move |(key, value)| option(&format!("{prefix}{key}"), value))
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(flag);
    joined.push(path);
    joined
}

/// Fields as one line of CSV: a comma or a quote in a value begins no new field.
fn csv(flag: &str, fields: &[(&str, &[u8])]) -> OsString {
    let mut line = flag.as_bytes().to_vec();
    for (number, (key, value)) in fields.iter().enumerate() {
        if number > 0 {
            line.push(b',');
        }
        line.push(b'"');
        for byte in [key.as_bytes(), b"=", value].concat() {
            if byte == b'"' {
                line.push(b'"');
            }
            line.push(byte);
        }
        line.push(b'"');
    }
    OsString::from_vec(line)
}

#[cfg(test)]
mod tests;
