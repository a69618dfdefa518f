//! Where things are inside the build's pod. Both sides of the pod, plan and runner, read it here.

/// Socket of the BuildKit daemon, on a volume that only the two containers share.
pub const SOCKET_DIRECTORY: &str = "/run/ocibuild";
/// The daemon's address.
pub const DAEMON_ADDRESS: &str = "unix:///run/ocibuild/buildkitd.sock";
/// Files that the pod's annotations become, in the build container.
pub const INSTRUCTIONS_DIRECTORY: &str = "/instructions";
/// The instructions themselves.
pub const INSTRUCTIONS_FILE: &str = "/instructions/instructions.json";
/// The daemon's configuration, in the daemon's container.
pub const DAEMON_CONFIG_DIRECTORY: &str = "/etc/ocibuild";
/// The source claim or ConfigMap.
pub const SOURCE_DIRECTORY: &str = "/source";
/// The output claim.
pub const OUTPUT_DIRECTORY: &str = "/output";
/// Scratch space of the runner: sources that it fetches.
pub const WORK_DIRECTORY: &str = "/workspace";
/// Folder of a fetched or sent source in it.
pub const SOURCE: &str = "source";
/// The mounted Secrets, one folder each, by number.
pub const REGISTRY_SECRETS_DIRECTORY: &str = "/registry-secrets";
/// The keys of Secrets that become build secrets, one folder each, by number.
pub const BUILD_SECRETS_DIRECTORY: &str = "/build-secrets";
/// The keys of Secrets that are SSH keys, one folder each, by number.
pub const SSH_DIRECTORY: &str = "/ssh-keys";
/// The authorities' certificates of registries, one folder each, by number, in both containers.
pub const REGISTRY_AUTHORITIES_DIRECTORY: &str = "/etc/ocibuild-registries";
/// The operator's own authorities, in both containers.
pub const AUTHORITIES_DIRECTORY: &str = "/etc/ocibuild-authorities";
/// File with the operator's own authorities in its folder.
pub const AUTHORITIES_FILE: &str = "ca.pem";
/// File that a mounted key becomes in its folder.
pub const KEY_FILE: &str = "value";
/// Port of the runner's progress answers. Nothing secret is served there.
pub const PROGRESS_PORT: u16 = 24_680;
/// Port, on the pod's loopback address alone, where a client sends the source and fetches the files.
pub const TRANSFER_PORT: u16 = 24_681;
/// User and group of the runner, and of the daemon when rootless.
pub const USER: i64 = 1000;
/// Container that drives the build; its end is the build's end.
pub const BUILD_CONTAINER: &str = "build";
/// Container of the BuildKit daemon, a native sidecar.
pub const DAEMON_CONTAINER: &str = "buildkitd";
