//! What may lie in an input: many files, large ones, none, and names that nobody expects.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
};

use super::{ends::nothing_is_in_the_cluster, folder::Task};
use crate::{cluster::Namespace, scenarios::image::Image};

#[test]
fn a_context_of_twenty_thousand_files_and_a_gibibyte_arrives_whole() {
    let namespace = Namespace::new("task-large");
    let dockerfile = "FROM busybox:1.37
RUN --mount=type=bind,target=/context cd /context/tree && find . -type f | wc -l > /files && cat $(find . -name 'file-*77') | sha256sum > /some \\
    && stat -c %s /context/large > /size && sha256sum < /context/large > /sum
";
    let task = Task::new(&namespace, &[("Dockerfile", dockerfile)], &["image"]);
    for folder in 0..100 {
        fs::create_dir_all(task.path(&format!("tree/{folder}"))).unwrap();
        for file in 0..200 {
            fs::write(
                task.path(&format!("tree/{folder}/file-{file}")),
                format!("{folder} and {file}\n"),
            )
            .unwrap();
        }
    }
    let mut large = File::create(task.path("large")).unwrap();
    let mut block = vec![0; 1 << 20];
    fastrand::Rng::with_seed(3).fill(&mut block);
    for number in 0..1024_u32 {
        block[..4].copy_from_slice(&number.to_le_bytes());
        large.write_all(&block).unwrap();
    }
    let log = task.succeeds(&[]);
    let image = Image::of_tar(&task.path("image/image.tar"));
    assert_eq!(image.file("files"), "20000\n", "{log}");
    assert_eq!(image.file("size"), format!("{}\n", 1 << 30));
    let sum = crate::cluster::run("sha256sum", &[task.path("large").to_str().unwrap()], b"").ok();
    assert_eq!(image.file("sum").split(' ').next(), sum.split(' ').next());
}

#[test]
fn a_context_of_no_files_builds_and_one_without_a_dockerfile_is_refused_at_once() {
    let namespace = Namespace::new("task-empty");
    let dockerfile = "FROM busybox:1.37\nCOPY . /context\nRUN ls -A /context | wc -l > /count\n";
    let task = Task::new(&namespace, &[("ci/Dockerfile", dockerfile)], &["image", "source"]);
    task.succeeds(&[("CONTEXT", "source"), ("DOCKERFILE", "ci/Dockerfile")]);
    assert_eq!(Image::of_tar(&task.path("image/image.tar")).file("count"), "0\n");
    for (parameters, words) in [
        (
            vec![("CONTEXT", "source")],
            "there is no Dockerfile: \"source/Dockerfile\" is not a file",
        ),
        (
            vec![("CONTEXT", "source"), ("DOCKERFILE", "other")],
            "neither \"other\" nor \"source/other\" is a file",
        ),
        (vec![("CONTEXT", "nowhere"), ("DOCKERFILE", "ci/Dockerfile")], "nowhere"),
    ] {
        let log = task.fails(&parameters);
        assert!(log.contains(words), "{words}: {log}");
    }
    nothing_is_in_the_cluster(&namespace);
}

#[test]
fn strange_names_links_modes_and_holes_reach_the_build_as_they_are() {
    let namespace = Namespace::new("task-strange");
    let dockerfile = "FROM busybox:1.37
COPY . /context
RUN cd /context && cat 'a b' new?line tab?here ./-dash > /read
RUN cd /context && for link in dangling absolute loop folder-link; do readlink $link; done > /links
RUN cd /context && stat -c '%a %Y %n' run.sh private folder > /modes && stat -c %s sparse > /size && sha256sum < sparse > /sum
";
    let task = Task::new(&namespace, &[("source/Dockerfile", dockerfile)], &["image"]);
    for name in ["a b", "new\nline", "tab\there", "-dash", "run.sh", "private", "folder/file"] {
        task.write(&format!("source/{name}"), format!("{}\n", name.len()).as_bytes());
    }
    let mode = |path: &str, mode| {
        fs::set_permissions(task.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("source/run.sh", 0o755);
    mode("source/private", 0o600);
    mode("source/folder", 0o750);
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for path in ["source/run.sh", "source/private", "source/folder"] {
        File::open(task.path(path)).unwrap().set_modified(time).unwrap();
    }
    for (link, target) in [
        ("dangling", "nowhere"),
        ("absolute", "/etc/passwd"),
        ("loop", "loop"),
        ("folder-link", "folder"),
    ] {
        symlink(target, task.path(&format!("source/{link}"))).unwrap();
    }
    let mut sparse = File::create(task.path("source/sparse")).unwrap();
    sparse.write_all(b"begin").unwrap();
    sparse.set_len(200 << 20).unwrap();
    task.succeeds(&[("CONTEXT", "source")]);
    let image = Image::of_tar(&task.path("image/image.tar"));
    assert_eq!(image.file("read"), "3\n8\n8\n5\n");
    assert_eq!(image.file("links"), "nowhere\n/etc/passwd\nloop\nfolder\n");
    assert_eq!(
        image.file("modes"),
        "755 1000000000 run.sh\n600 1000000000 private\n750 1000000000 folder\n"
    );
    assert_eq!(image.file("size"), format!("{}\n", 200 << 20));
    let sum =
        crate::cluster::run("sha256sum", &[task.path("source/sparse").to_str().unwrap()], b"").ok();
    assert_eq!(image.file("sum").split(' ').next(), sum.split(' ').next());

    // A name that is no UTF-8 arrives too, and is no hindrance where the build does not use it.
    fs::write(task.path("source").join(OsStr::from_bytes(b"latin-\xe4")), "umlaut\n").unwrap();
    task.write(
        "Dockerfile",
        b"FROM busybox:1.37\nCOPY . /context\nRUN cat /context/latin-* > /latin\n",
    );
    task.succeeds(&[("CONTEXT", "source"), ("DOCKERFILE", "Dockerfile")]);
    assert_eq!(Image::of_tar(&task.path("image/image.tar")).file("latin"), "umlaut\n");
    task.write("source/.dockerignore", b"latin-*\n");
    task.succeeds(&[("CONTEXT", "source")]);
}
