//! Generates the Rust code of BuildKit's gRPC API: `generate-buildkit-proto OUT INCLUDE…`.
//!
//! Only the methods that the client calls or answers are kept, and only the messages these need. BuildKit calls other
//! methods of a session at times; the session answers them with `Unimplemented`.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Context;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, field_descriptor_proto::Type,
};

const FILES: [&str; 9] = [
    "github.com/moby/buildkit/api/services/control/control.proto",
    "github.com/moby/buildkit/solver/pb/ops.proto",
    "github.com/moby/buildkit/session/auth/auth.proto",
    "github.com/moby/buildkit/session/filesync/filesync.proto",
    "github.com/moby/buildkit/session/secrets/secrets.proto",
    "github.com/moby/buildkit/session/sshforward/ssh.proto",
    "github.com/containerd/containerd/api/services/content/v1/content.proto",
    "grpc/health/v1/health.proto",
    "google/rpc/status.proto",
];

/// The methods to keep of a service; all of the others.
const METHODS: [(&str, &[&str]); 3] = [
    ("Control", &["Solve", "Status", "Session", "Prune", "DiskUsage", "ListWorkers", "Info"]),
    ("FileSync", &["DiffCopy"]),
    ("Content", &["Info", "Read"]),
];

/// Messages that no method names: LLB travels as bytes, and error details in trailers.
const MESSAGES: [&str; 2] = [".pb.Op", ".google.rpc.Status"];

/// File names need not be UTF-8, so these fields are bytes here. On the wire both are the same.
const PATHS: [(&str, &[&str]); 1] = [("Stat", &["path", "linkname"])];

/// Payloads that are handed on without a copy.
const PAYLOADS: [&str; 4] = [
    ".fsutil.types.Packet.data",
    ".moby.buildkit.v1.BytesMessage.data",
    ".moby.filesync.v1.BytesMessage.data",
    ".moby.sshforward.v1.BytesMessage.data",
];

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let out = arguments.next().context("usage: generate-buildkit-proto OUT INCLUDE…")?;
    let includes: Vec<PathBuf> = arguments.collect();
    let mut files = protox::compile(FILES, includes)?;
    for file in &mut files.file {
        keep_methods(file);
        declare_paths_as_bytes(file);
    }
    keep_messages(&mut files);
    std::fs::create_dir_all(&out)?;
    let mut prost = tonic_prost_build::Config::new();
    prost.bytes(PAYLOADS).disable_comments(["."]);
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(&out)
        .include_file("mod.rs")
        .compile_fds_with_config(files, prost)?;
    Ok(())
}

fn keep_methods(file: &mut FileDescriptorProto) {
    for service in &mut file.service {
        let kept = METHODS.iter().find(|(name, _)| *name == service.name());
        if let Some((_, methods)) = kept {
            service.method.retain(|method| methods.contains(&method.name()));
        }
    }
}

fn declare_paths_as_bytes(file: &mut FileDescriptorProto) {
    for message in &mut file.message_type {
        let name = message.name().to_owned();
        for (_, fields) in PATHS.iter().filter(|(message, _)| *message == name) {
            for field in message.field.iter_mut().filter(|field| fields.contains(&field.name())) {
                field.set_type(Type::Bytes);
            }
        }
    }
}

/// Removes the messages and enums that no kept method needs.
fn keep_messages(files: &mut FileDescriptorSet) {
    let mut needed: BTreeSet<String> = MESSAGES.iter().map(ToString::to_string).collect();
    for method in
        files.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method)
    {
        needed.extend([method.input_type().to_owned(), method.output_type().to_owned()]);
    }
    loop {
        let before = needed.len();
        for file in &files.file {
            for message in &file.message_type {
                if needed.contains(&full_name(file, message.name())) {
                    add_field_types(message, &mut needed);
                }
            }
        }
        if needed.len() == before {
            break;
        }
    }
    for file in &mut files.file {
        let package = file.package().to_owned();
        let is_needed = |name: &str| {
            let name = format!(".{package}.{name}");
            needed.contains(&name) || needed.iter().any(|needed| needed.starts_with(&format!("{name}.")))
        };
        if package != "google.protobuf" {
            file.message_type.retain(|message| is_needed(message.name()));
            file.enum_type.retain(|kept| is_needed(kept.name()));
        }
    }
}

fn full_name(file: &FileDescriptorProto, name: &str) -> String {
    format!(".{}.{name}", file.package())
}

fn add_field_types(message: &DescriptorProto, needed: &mut BTreeSet<String>) {
    needed.extend(message.field.iter().filter_map(|field| field.type_name.clone()));
    for nested in &message.nested_type {
        add_field_types(nested, needed);
    }
}
