//! Build secrets and ssh keys reach the steps that ask for them.

use std::{fs, process::Command};

use serde_json::json;

use super::{Scenario, image::digest_of};
use crate::cluster::run;

/// An ssh key as ssh-keygen makes it.
pub struct SshKey {
    pub private: String,
    /// As `ssh-add -l` shows it.
    pub fingerprint: String,
}

pub fn ed25519_key() -> SshKey {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let path = file.to_str().unwrap();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "deploy-key", "-f", path], b"").ok();
    let listed = run("ssh-keygen", &["-l", "-f", path], b"").ok();
    let fingerprint =
        listed.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap().to_owned();
    SshKey { private: fs::read_to_string(&file).unwrap(), fingerprint }
}

/// Scenarios: file secret; text secret.
#[test]
fn steps_read_the_secrets_of_a_file_and_of_a_key_as_they_are() {
    let scenario = Scenario::new("secrets");
    let several_lines = "first line\n\nthird line without an end";
    scenario.secret("tokens", &[("token", "hello from the Secret"), ("other", "not asked for")]);
    let dockerfile = "FROM busybox:1.37
RUN --mount=type=secret,id=file-secret sha256sum < /run/secrets/file-secret > /file-secret
RUN --mount=type=secret,id=text_secret,target=/elsewhere sha256sum < /elsewhere > /text-secret
RUN --mount=type=secret,id=team/npm.token,env=TOKEN printf %s \"$TOKEN\" | sha256sum > /variable
RUN --mount=type=secret,id=nobody-has-it test ! -e /run/secrets/nobody-has-it && test ! -e /run/secrets/file-secret
";
    let token = json!({ "name": "tokens", "key": "token" });
    scenario.build(
        "secrets",
        &[("Dockerfile", dockerfile), ("private/secret.txt", several_lines)],
        json!({ "secrets": [
            { "id": "file-secret", "file": "private/secret.txt" },
            { "id": "text_secret", "secret": token },
            { "id": "team/npm.token", "secret": token },
        ] }),
    );
    scenario.succeeded("secrets");
    let image = scenario.outputs().image("secrets");
    for (file, secret) in [
        ("file-secret", several_lines),
        ("text-secret", "hello from the Secret"),
        ("variable", "hello from the Secret"),
    ] {
        let seen = format!("sha256:{}", image.file(file).split(' ').next().unwrap());
        assert_eq!(seen, digest_of(secret.as_bytes()), "{file}");
    }
}

/// Scenarios: ssh key. `ssh-add -l` in a step sees the fingerprints.
#[test]
fn steps_see_the_keys_of_their_agent_and_not_the_keys_themselves() {
    let scenario = Scenario::new("ssh");
    let keys = [ed25519_key(), ed25519_key(), ed25519_key()];
    scenario.secret("one", &[("id_ed25519", &keys[0].private)]);
    scenario.secret("others", &[("second", &keys[1].private), ("third", &keys[2].private)]);
    scenario.shell_with_input(
        scenario.look(),
        "mkdir -p /claim/source/tools && tar -xf - -C /claim/source/tools",
        &ssh_add(),
    );
    let dockerfile = "FROM busybox:1.37 AS steps
COPY tools /
RUN --mount=type=ssh ssh-add -l > /default
RUN --mount=type=ssh,id=deploy ssh-add -l > /deploy
RUN test -z \"$SSH_AUTH_SOCK\"
FROM scratch
COPY --from=steps /default /deploy /
";
    scenario.write("source/Dockerfile", dockerfile.as_bytes());
    let key = |name: &str, key: &str| json!({ "name": name, "key": key });
    scenario.build_from_claim(
        "ssh",
        json!({
            "context": "source",
            "ssh": [
                { "secret": key("one", "id_ed25519") },
                { "id": "deploy", "secret": key("others", "second") },
                { "id": "deploy", "secret": key("others", "third") },
            ],
        }),
    );
    scenario.succeeded("ssh");
    let image = scenario.outputs().image("ssh");
    for (agent, expected) in [("default", &keys[..1]), ("deploy", &keys[1..])] {
        let listed = image.file(agent);
        let mut seen: Vec<_> =
            listed.split_whitespace().filter(|word| word.starts_with("SHA256:")).collect();
        let mut expected: Vec<_> = expected.iter().map(|key| key.fingerprint.as_str()).collect();
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected, "{agent}: {listed}");
    }
}

/// A tar of this machine's ssh-add with its libraries: no image of the cluster has one.
pub fn ssh_add() -> Vec<u8> {
    let program = run("sh", &["-c", "command -v ssh-add"], b"").ok().trim().to_owned();
    let libraries = run("ldd", &[&program], b"").ok();
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    // A library may be a link in a folder that is one: what it leads to goes under the name that the program knows.
    let tar = Command::new("tar").args(["-chf", "-", &program]).args(paths).output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    tar.stdout
}
