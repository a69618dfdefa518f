//! unpackRootfs: the image's files as a folder, with its environment and user.

use serde_json::json;

use super::{Scenario, image::docker_tar, names};

const DOCKERFILE: &str = "FROM busybox:1.37
RUN mkdir /kept /gone /again && echo lower | tee /kept/lower /kept/removed /gone/a /again/old /again/both /file /plain
RUN rm /file /kept/removed && rm -r /gone /again && mkdir /again && echo new | tee /again/new /again/both
RUN echo second > /file && echo script > /tool && chmod 0751 /tool && echo script > /setuid-tool && chmod 4755 /setuid-tool \\
    && mkdir -m 1777 /shared && mkfifo /pipe && ln -s plain /link && ln -s /etc/passwd /absolute-link && ln /plain /hard-link \\
    && ln -s ../../../../../../etc/passwd /climbing-link
USER banana
ENV PATH=/darkness
ENV BA=nana
";

/// Scenarios: unpack rootfs. With all that layers can do to files.
#[test]
fn the_root_file_system_is_that_of_the_image() {
    let scenario = Scenario::new("rootfs");
    scenario.build("unpacked", &[("Dockerfile", DOCKERFILE)], json!({ "unpackRootfs": true }));
    scenario.build(
        "unpacked-oci",
        &[("Dockerfile", DOCKERFILE)],
        json!({ "unpackRootfs": true, "outputFormat": "oci" }),
    );
    for name in ["unpacked", "unpacked-oci"] {
        let status = scenario.succeeded(name);
        let warnings = status["warnings"].to_string();
        assert!(
            warnings.contains("left out"),
            "the pipe that rootfs lacks is spoken of: {warnings}"
        );
    }

    for name in ["unpacked", "unpacked-oci"] {
        let rootfs = |command: &str| scenario.in_claim(&format!("cd {name}/rootfs && {command}"));
        for (file, content) in [
            ("file", "second\n"),
            ("kept/lower", "lower\n"),
            ("again/new", "new\n"),
            ("again/both", "new\n"),
            ("hard-link", "lower\n"),
        ] {
            assert_eq!(rootfs(&format!("cat {file}")), content, "{name}: {file}");
        }
        assert_eq!(
            rootfs("ls -A again"),
            "both\nnew\n",
            "{name}: what a deleted folder held is gone"
        );
        assert_eq!(rootfs("ls -A kept"), "lower\n", "{name}");
        for (file, is) in [
            ("tool", "751 regular file"),
            ("setuid-tool", "4755 regular file"),
            ("shared", "1777 directory"),
            ("link", "777 symbolic link"),
        ] {
            assert_eq!(rootfs(&format!("stat -c '%a %F' {file}")).trim(), is, "{name}: {file}");
        }
        for (link, target) in [
            ("link", "plain"),
            ("absolute-link", "/etc/passwd"),
            ("climbing-link", "../../../../../../etc/passwd"),
        ] {
            assert_eq!(rootfs(&format!("readlink {link}")).trim(), target, "{name}");
        }
        assert_eq!(rootfs("ls -d gone pipe 2>/dev/null || true"), "", "{name}");
        assert_eq!(rootfs("find . -name '.wh.*'"), "", "{name}");
        assert_eq!(rootfs("ls /claim/.wh* 2>/dev/null || true"), "", "{name}");
        let same = rootfs("sha256sum bin/busybox /bin/busybox | cut -d' ' -f1 | uniq | wc -l");
        assert_eq!(
            same.trim(),
            "1",
            "{name}: busybox of the image is that of this pod, byte for byte"
        );
        let metadata = scenario.in_claim(&format!("cat {name}/metadata.json"));
        assert_eq!(
            metadata, "{\"env\":[\"PATH=/darkness\",\"BA=nana\"],\"user\":\"banana\"}\n",
            "{name}"
        );
    }

    let outputs = scenario.outputs();
    assert_eq!(
        outputs.names("unpacked"),
        names(&["digest", "image.tar", "metadata.json", "result.json", "rootfs"])
    );
    let whiteouts: Vec<_> = outputs
        .image("unpacked")
        .layers()
        .into_iter()
        .flatten()
        .filter(|entry| entry.path.contains(".wh."))
        .collect();
    assert!(
        whiteouts.iter().any(|entry| entry.path.starts_with("again/.wh.")),
        "the layers do delete what the folder held"
    );
    assert!(whiteouts.iter().any(|entry| entry.path == ".wh.gone"));
}

/// Where the peer is wrong: opaque whiteouts, as Docker writes them for a folder that was deleted and made again.
#[test]
fn an_opaque_whiteout_hides_what_lower_layers_hold() {
    let scenario = Scenario::new("opaque");
    let base = docker_tar(&[
        &[
            ("again/", ""),
            ("again/old", "old"),
            ("again/both", "old"),
            ("kept/", ""),
            ("kept/file", "kept"),
            ("gone", "gone"),
        ],
        &[
            ("again/", ""),
            ("again/.wh..wh..opq", ""),
            ("again/both", "new"),
            ("again/new", "new"),
            (".wh.gone", ""),
        ],
    ]);
    scenario.write("source/base.tar", &base);
    scenario.write("source/Dockerfile", b"ARG base\nFROM ${base}\nLABEL built=here\n");
    for name in ["opaque", "opaque-oci"] {
        let format = if name == "opaque" { "docker" } else { "oci" };
        let image_args = json!({ "base": "source/base.tar" });
        let spec = json!({ "context": "source", "imageArgs": image_args, "unpackRootfs": true, "outputFormat": format });
        scenario.build_from_claim(name, spec);
    }
    for name in ["opaque", "opaque-oci"] {
        scenario.succeeded(name);
        let files = scenario
            .in_claim(&format!("cd {name}/rootfs && find . -type f | sort | xargs grep -H ."));
        assert_eq!(files, "./again/both:new\n./again/new:new\n./kept/file:kept\n", "{name}");
    }
    let layers = scenario.outputs().image("opaque").layers();
    assert!(
        layers.iter().flatten().any(|entry| entry.path == "again/.wh..wh..opq"),
        "the image has the whiteout"
    );
}

/// The peer skips devices too. Only a privileged step can make one.
#[test]
fn a_device_stays_in_the_image_and_out_of_the_root_file_system() {
    let scenario = Scenario::new("devices");
    let dockerfile = "FROM busybox:1.37\nRUN mknod /device c 1 3 && echo plain > /beside\n";
    scenario.build(
        "device",
        &[("Dockerfile", dockerfile)],
        json!({ "unpackRootfs": true, "isolation": "privileged" }),
    );
    scenario.succeeded("device");
    assert_eq!(
        scenario.in_claim("cd device/rootfs && cat beside && ls -d device 2>/dev/null || true"),
        "plain\n"
    );
    let layers = scenario.outputs().image("device").layers();
    let device = layers
        .iter()
        .flatten()
        .find(|entry| entry.path == "device")
        .expect("the image has the device");
    assert_eq!(device.kind, tar::EntryType::Char);
}
