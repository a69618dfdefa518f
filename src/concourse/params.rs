//! The task's parameters, read from its environment. Pure: variables in, [`TaskParameters`] out. Names, defaults and oddities are
//! those of the Concourse OCI build task, so that its pipelines run unchanged.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    path::{Component, Path},
};

/// Everything that a task is told by its environment. Paths are as they were written: relative to the task's working directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskParameters {
    /// CONTEXT; `.` if left out.
    pub context: String,
    /// DOCKERFILE.
    pub dockerfile: Option<String>,
    /// BUILD_ARGS and BUILD_ARG_*.
    pub build_args: BTreeMap<String, String>,
    /// BUILD_ARGS_FILE.
    pub build_args_file: Option<String>,
    /// LABELS and LABEL_*.
    pub labels: BTreeMap<String, String>,
    /// LABELS_FILE.
    pub labels_file: Option<String>,
    /// IMAGE_ARGS and IMAGE_ARG_*: build argument to path.
    pub image_args: BTreeMap<String, String>,
    /// TARGET.
    pub target: Option<String>,
    /// TARGET_FILE.
    pub target_file: Option<String>,
    /// ADDITIONAL_TARGETS.
    pub additional_targets: Vec<String>,
    /// IMAGE_PLATFORM.
    pub platforms: Vec<String>,
    /// OUTPUT_OCI, or several platforms.
    pub output_oci: bool,
    /// UNPACK_ROOTFS.
    pub unpack_rootfs: bool,
    /// BUILDKIT_SECRET_*: id to path.
    pub secret_files: BTreeMap<String, String>,
    /// BUILDKIT_SECRETTEXT_*: id to text.
    pub secret_texts: BTreeMap<String, SecretText>,
    /// BUILDKIT_SSH: id and the paths of its keys.
    pub ssh: Option<(String, Vec<String>)>,
    /// BUILDKIT_ADD_HOSTS.
    pub add_hosts: BTreeMap<String, String>,
    /// REGISTRY_MIRRORS of docker.io.
    pub registry_mirrors: Vec<String>,
    /// BUILDKIT_EXTRA_CONFIG.
    pub extra_config: Option<String>,
    /// DEBUG.
    pub debug: bool,
    /// DOCKER_CONFIG: the folder of a config.json.
    pub docker_config: Option<String>,
    /// IMAGE_NAME.
    pub image_name: Option<String>,
    /// IMAGE_TAG.
    pub image_tag: Option<String>,
    /// PUSH.
    pub push: bool,
    /// REGISTRY.
    pub registry: Option<String>,
}

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretText(…)")
    }
}

/// A parameter that cannot be what was meant. No message has the value of a parameter that may be secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParameter {
    /// No boolean.
    #[error("{name}: {value:?} is neither true nor false; write true or false")]
    Boolean {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A YAML list where the task takes a comma list.
    #[error(
        "{name}: Concourse makes the text {value:?} of a YAML list; write one text with commas instead, such as {name}: a,b"
    )]
    YamlList {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// An element of a list that has no '='.
    #[error("{name}: {element:?} has no '='; each element is name=value")]
    NoEqualsSign {
        /// The parameter.
        name: &'static str,
        /// The element.
        element: String,
    },
    /// Not an address.
    #[error(
        "BUILDKIT_ADD_HOSTS: {address:?} of {host} is not an IP address; write host=10.0.0.1,other=10.0.0.2"
    )]
    Address {
        /// The host.
        host: String,
        /// Its address.
        address: String,
    },
    /// BUILDKIT_SECRETS.
    #[error(
        "BUILDKIT_SECRETS is not a parameter; name each secret: BUILDKIT_SECRET_<id>: <file> or BUILDKIT_SECRETTEXT_<id>: <text>"
    )]
    Secrets,
    /// BUILDKIT_SSH without keys.
    #[error(
        "BUILDKIT_SSH: {0:?} names no key; there is no SSH agent in a task: write <id>=<path of the key>"
    )]
    SshAgent(String),
    /// PUSH without REGISTRY.
    #[error("PUSH is true, so REGISTRY is needed, for example REGISTRY: docker.io/my-team")]
    PushWithoutRegistry,
    /// PUSH without IMAGE_NAME.
    #[error("PUSH is true, so IMAGE_NAME is needed, for example IMAGE_NAME: my-app")]
    PushWithoutName,
    /// A path that cannot be sent.
    #[error("{name}: {path:?} is outside the task's folder; name an input by its relative path")]
    Outside {
        /// The parameter.
        name: &'static str,
        /// The path.
        path: String,
    },
    /// A target whose files would have no folder of their own.
    #[error(
        "ADDITIONAL_TARGETS: {0:?} is no name of a stage that could have an output of its own: letters, digits, '.', '_' and '-', a letter or digit first, and not image"
    )]
    TargetName(String),
    /// UNPACK_ROOTFS with several platforms.
    #[error("UNPACK_ROOTFS: only for one platform; IMAGE_PLATFORM names {0}")]
    RootfsOfPlatforms(usize),
}

/// Parameters that are also taken in lower case and without underscores, as the task does.
const LENIENT: [&str; 17] = [
    "BUILD_ARGS_FILE",
    "LABELS_FILE",
    "BUILD_ARGS",
    "LABELS",
    "IMAGE_ARGS",
    "TARGET",
    "TARGET_FILE",
    "ADDITIONAL_TARGETS",
    "IMAGE_PLATFORM",
    "OUTPUT_OCI",
    "UNPACK_ROOTFS",
    "BUILDKIT_SSH",
    "BUILDKIT_ADD_HOSTS",
    "REGISTRY_MIRRORS",
    "BUILDKIT_EXTRA_CONFIG",
    "BUILDKIT_SECRETS",
    "DEBUG",
];

/// The variables of a task's environment.
struct Environment<'a>(&'a BTreeMap<String, String>);

impl<'a> Environment<'a> {
    /// A variable's value; an empty one counts as left out.
    fn text(&self, name: &'static str) -> Option<&'a str> {
        let exact = self.0.get(name).map(String::as_str).filter(|value| !value.is_empty());
        exact.or_else(|| {
            let spellings = [
                name.to_ascii_lowercase(),
                name.replace('_', ""),
                name.to_ascii_lowercase().replace('_', ""),
            ];
            let spellings = spellings.iter().filter(|_| LENIENT.contains(&name));
            spellings
                .filter_map(|spelling| self.0.get(spelling))
                .map(String::as_str)
                .find(|value| !value.is_empty())
        })
    }

    fn owned(&self, name: &'static str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// Go's `strconv.ParseBool`.
    fn boolean(&self, name: &'static str) -> Result<bool, InvalidParameter> {
        match self.text(name) {
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some(value) => Err(InvalidParameter::Boolean { name, value: value.to_owned() }),
        }
    }

    fn list(&self, name: &'static str) -> Result<Vec<String>, InvalidParameter> {
        let Some(value) = self.text(name) else { return Ok(Vec::new()) };
        if value.starts_with('[') && value.ends_with(']') {
            return Err(InvalidParameter::YamlList { name, value: value.to_owned() });
        }
        Ok(split(value))
    }

    /// A list of `name=value` and the variables with a prefix, which win.
    fn pairs(
        &self,
        list: &'static str,
        prefix: &str,
    ) -> Result<BTreeMap<String, String>, InvalidParameter> {
        let mut pairs = BTreeMap::new();
        for element in self.list(list)? {
            let (name, value) = element.split_once('=').ok_or_else(|| {
                InvalidParameter::NoEqualsSign { name: list, element: element.clone() }
            })?;
            pairs.insert(name.to_owned(), value.to_owned());
        }
        pairs.extend(self.prefixed(prefix));
        Ok(pairs)
    }

    /// The variables with a prefix, without it. Here an empty value is a value.
    fn prefixed(&self, prefix: &str) -> BTreeMap<String, String> {
        let named =
            self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
        named
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect()
    }
}

/// Elements between commas, as they are; a comma within braces belongs to its element.
fn split(value: &str) -> Vec<String> {
    let mut elements = vec![String::new()];
    let mut depth = 0_usize;
    for character in value.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                elements.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = elements.last_mut() {
            last.push(character);
        }
    }
    elements
}

impl TaskParameters {
    /// Reads the environment of a task.
    pub fn read(variables: &BTreeMap<String, String>) -> Result<Self, InvalidParameter> {
        let environment = Environment(variables);
        if environment.text("BUILDKIT_SECRETS").is_some() {
            return Err(InvalidParameter::Secrets);
        }
        let platforms = environment.list("IMAGE_PLATFORM")?;
        let secret_texts = environment.prefixed("BUILDKIT_SECRETTEXT_");
        let parameters = Self {
            context: environment.owned("CONTEXT").unwrap_or_else(|| ".".to_owned()),
            dockerfile: environment.owned("DOCKERFILE"),
            build_args: environment.pairs("BUILD_ARGS", "BUILD_ARG_")?,
            build_args_file: environment.owned("BUILD_ARGS_FILE"),
            labels: environment.pairs("LABELS", "LABEL_")?,
            labels_file: environment.owned("LABELS_FILE"),
            image_args: environment.pairs("IMAGE_ARGS", "IMAGE_ARG_")?,
            target: environment.owned("TARGET"),
            target_file: environment.owned("TARGET_FILE"),
            additional_targets: target_names(environment.list("ADDITIONAL_TARGETS")?)?,
            output_oci: environment.boolean("OUTPUT_OCI")? || platforms.len() > 1,
            unpack_rootfs: environment.boolean("UNPACK_ROOTFS")?,
            platforms,
            secret_files: environment.prefixed("BUILDKIT_SECRET_"),
            secret_texts: secret_texts
                .into_iter()
                .map(|(id, text)| (id, SecretText(text)))
                .collect(),
            ssh: environment.text("BUILDKIT_SSH").map(ssh).transpose()?,
            add_hosts: hosts(&environment.list("BUILDKIT_ADD_HOSTS")?)?,
            registry_mirrors: environment.list("REGISTRY_MIRRORS")?,
            extra_config: environment.owned("BUILDKIT_EXTRA_CONFIG"),
            debug: environment.boolean("DEBUG")?,
            docker_config: environment.owned("DOCKER_CONFIG"),
            image_name: environment.owned("IMAGE_NAME"),
            image_tag: environment.owned("IMAGE_TAG"),
            push: environment.boolean("PUSH")?,
            registry: environment.owned("REGISTRY"),
        };
        parameters.check()?;
        Ok(parameters)
    }

    /// The same with the paths of all files that are sent relative to the task's folder, in their shortest form. Those of secrets
    /// stay: they are read here.
    pub fn below(mut self, folder: &Path) -> Result<Self, InvalidParameter> {
        let context = relative("CONTEXT", folder, &self.context)?;
        self.context = if context.is_empty() { ".".to_owned() } else { context };
        for (name, path) in [
            ("DOCKERFILE", &mut self.dockerfile),
            ("BUILD_ARGS_FILE", &mut self.build_args_file),
            ("LABELS_FILE", &mut self.labels_file),
            ("TARGET_FILE", &mut self.target_file),
        ] {
            *path = path.as_deref().map(|path| relative(name, folder, path)).transpose()?;
        }
        for path in self.image_args.values_mut() {
            *path = relative("IMAGE_ARG", folder, path)?;
        }
        Ok(self)
    }

    fn check(&self) -> Result<(), InvalidParameter> {
        if self.push && self.registry.is_none() {
            return Err(InvalidParameter::PushWithoutRegistry);
        }
        if self.push && self.image_name.is_none() {
            return Err(InvalidParameter::PushWithoutName);
        }
        if self.unpack_rootfs && self.platforms.len() > 1 {
            return Err(InvalidParameter::RootfsOfPlatforms(self.platforms.len()));
        }
        Ok(())
    }
}

fn relative(name: &'static str, folder: &Path, path: &str) -> Result<String, InvalidParameter> {
    let outside = || InvalidParameter::Outside { name, path: path.to_owned() };
    let below = Path::new(path).strip_prefix(folder).unwrap_or(Path::new(path));
    let mut parts: Vec<&str> = Vec::new();
    for component in below.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().ok_or_else(outside)?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop().ok_or_else(outside)?;
            }
            Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    Ok(parts.join("/"))
}

/// `<id>=<key>[,<key>]`.
fn ssh(value: &str) -> Result<(String, Vec<String>), InvalidParameter> {
    let (id, keys) = value.split_once('=').unwrap_or((value, ""));
    let keys: Vec<String> =
        keys.split(',').filter(|key| !key.is_empty()).map(str::to_owned).collect();
    if keys.is_empty() {
        Err(InvalidParameter::SshAgent(value.to_owned()))
    } else {
        Ok((id.to_owned(), keys))
    }
}

fn hosts(elements: &[String]) -> Result<BTreeMap<String, String>, InvalidParameter> {
    let mut hosts = BTreeMap::new();
    for element in elements {
        let (host, address) = element.split_once('=').ok_or_else(|| {
            InvalidParameter::NoEqualsSign { name: "BUILDKIT_ADD_HOSTS", element: element.clone() }
        })?;
        if address.parse::<IpAddr>().is_err() {
            return Err(InvalidParameter::Address {
                host: host.to_owned(),
                address: address.to_owned(),
            });
        }
        hosts.insert(host.to_owned(), address.to_owned());
    }
    Ok(hosts)
}

/// The files of a target go to the folder of its name.
fn target_names(targets: Vec<String>) -> Result<Vec<String>, InvalidParameter> {
    let is_name = |target: &str| {
        target.starts_with(|first: char| first.is_ascii_alphanumeric())
            && target.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
            && target != "image"
    };
    let targets: Vec<String> = targets.iter().map(|target| target.trim().to_owned()).collect();
    match targets.iter().find(|target| !is_name(target)) {
        Some(target) => Err(InvalidParameter::TargetName(target.clone())),
        None => Ok(targets),
    }
}

#[cfg(test)]
mod tests;
