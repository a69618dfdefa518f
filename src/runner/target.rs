//! One stage of the Dockerfile, from buildctl's run to the files that it leaves.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    arguments::{Given, Target, build_arguments, image_name},
    buildctl::{Buildctl, Streams, Taker},
    deadlines::RunPhase,
    diagnose::{Activity, Evidence, diagnose},
    image_tar::ImageTar,
    locate::Located,
    oci_layout::{self, Contents},
    output::{
        DIGEST, LAYOUT, METADATA, Staging, TAR, TarFile, storage_reason, write_rootfs, write_tar,
    },
    result::{BuildFailure, WrittenTar},
    stop::Stop,
};
use crate::{
    api::{FailureReason, OutputFormat},
    plan::{Digest, ImageReference, instructions::Instructions},
};

/// What all stages of a build share.
pub struct TargetRun<'a> {
    /// What is to be done.
    pub instructions: &'a Instructions,
    /// Context and Dockerfile.
    pub located: &'a Located,
    /// What the build is given.
    pub given: &'a Given,
    /// The client of the daemon.
    pub buildctl: &'a Buildctl,
    /// Where the files go; none if the image is only pushed.
    pub staging: Option<&'a Staging>,
    /// Folder for temporary files.
    pub work: &'a Path,
}

/// The image of a stage.
pub struct BuiltTarget {
    /// Digest of the manifest, or of the index.
    pub digest: Digest,
    /// Digest of the configuration, if there is one image.
    pub config_digest: Option<Digest>,
    /// Bytes of configurations and layers, if a tar was written.
    pub size: Option<i64>,
    /// Media type of the manifest or the index.
    pub media_type: Option<String>,
    /// Platforms.
    pub platforms: Vec<String>,
    /// The tar, if one was asked for.
    pub tar: Option<WrittenTar>,
}

/// The answer of `--metadata-file`; a stage that is exported nowhere has none.
#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(rename = "containerimage.digest")]
    digest: Option<Digest>,
    #[serde(rename = "containerimage.config.digest")]
    config_digest: Option<Digest>,
    #[serde(rename = "containerimage.descriptor")]
    descriptor: Option<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    fn text(&self) -> String {
        let variant = self
            .variant
            .as_ref()
            .filter(|variant| !variant.is_empty())
            .map(|variant| format!("/{variant}"));
        format!("{}/{}{}", self.os, self.architecture, variant.unwrap_or_default())
    }
}

/// Where the files of a stage are made, and where they will be.
struct Folder {
    made: PathBuf,
    shown: PathBuf,
}

impl TargetRun<'_> {
    /// Builds a stage and leaves its files in the staging folder. Nothing comes back for a stage that was only built.
    pub async fn build(
        &self,
        stage: Option<&str>,
        is_main: bool,
        stop: &mut Stop,
    ) -> Result<Option<BuiltTarget>, BuildFailure> {
        let staged = |error: io::Error| {
            BuildFailure::new(
                storage_reason(&error),
                format!("the output cannot be written: {error}"),
            )
        };
        let folder = match self.staging {
            Some(staging) => {
                let (made, shown) = staging.target(stage.filter(|_| !is_main)).map_err(staged)?;
                Some(Folder { made, shown })
            }
            None => None,
        };
        let references = if is_main {
            self.instructions.references.clone()
        } else {
            self.additional_references(stage)
        };
        let target = Target {
            stage,
            is_main,
            references: &references,
            is_pushed: self.instructions.push && is_main,
            has_tar: folder.is_some(),
        };
        let metadata_file = self.work.join("metadata.json");
        let arguments =
            build_arguments(self.instructions, self.located, self.given, &target, &metadata_file);
        stop.enter(RunPhase::Build);
        let ended = self
            .buildctl
            .run(&arguments, self.streams(folder.as_ref()), stop)
            .await
            .map_err(unwritten)?;
        if !ended.status.success() {
            let failure = self.failed();
            // What could not be written broke the pipe for BuildKit; else it was BuildKit that ended what was to be written.
            return Err(match ended.taken {
                Err(error)
                    if storage_reason(&error) != FailureReason::Internal
                        || failure.message.contains(" pipe") =>
                {
                    unwritten(error)
                }
                _ => failure,
            });
        }
        let (tar, left_out) = ended.taken.map_err(unwritten)?;
        stop.enter(RunPhase::Export);
        let metadata = read_metadata(&metadata_file)?;
        let Some(digest) = metadata.digest else { return Ok(None) };
        let (tar, contents) = match (folder, tar) {
            (Some(folder), Some(tar)) => {
                let format = self.instructions.image.format;
                let unpacks = self.instructions.image.unpack_rootfs;
                let (tar, contents) = stop
                    .unless_asked(move || finish(&folder, tar, format, unpacks).map_err(staged))
                    .await?;
                (Some(tar), Some(contents))
            }
            _ => (None, None),
        };
        if let Some(left_out) = left_out.filter(|left_out| *left_out > 0) {
            let warning =
                format!("{left_out} devices and pipes of the image were left out of rootfs");
            self.buildctl.tracker.with(|tracker| tracker.warn(&warning));
        }
        let of_contents =
            contents.as_ref().map(|contents| contents.platforms.clone()).unwrap_or_default();
        let described = metadata
            .descriptor
            .as_ref()
            .and_then(|descriptor| descriptor.platform.as_ref())
            .map(Platform::text);
        let platforms = [
            of_contents,
            described.into_iter().collect(),
            self.instructions.parameters.platforms.clone(),
        ];
        Ok(Some(BuiltTarget {
            digest,
            config_digest: metadata
                .config_digest
                .or_else(|| contents.as_ref()?.config_digest.clone()),
            size: contents.map(|contents| contents.size),
            media_type: metadata.descriptor.and_then(|descriptor| descriptor.media_type),
            platforms: platforms
                .into_iter()
                .find(|platforms| !platforms.is_empty())
                .unwrap_or_default(),
            tar,
        }))
    }

    /// An additional image is not pushed; its tar names it so that it does not take the place of the main one when it is loaded.
    fn additional_references(&self, stage: Option<&str>) -> Vec<ImageReference> {
        let main = self.instructions.references.first();
        main.zip(stage).and_then(|(main, stage)| main.with_tag_suffix(stage)).into_iter().collect()
    }

    fn streams(&self, folder: Option<&Folder>) -> Streams<TarFile, u64> {
        let Some(Folder { made, .. }) = folder else {
            return Streams { input: None, output: None, back_channel: None };
        };
        let (for_tar, for_rootfs) = (made.clone(), made.clone());
        let rootfs: Taker<u64> = Box::new(move |stream| write_rootfs(&for_rootfs, stream));
        Streams {
            input: None,
            output: Some(Box::new(move |stream| write_tar(&for_tar, stream))),
            back_channel: self.instructions.image.unpack_rootfs.then_some(rootfs),
        }
    }

    fn failed(&self) -> BuildFailure {
        let mut failure = self.buildctl.tracker.with(|tracker| {
            let remarks: Vec<&str> = tracker.remarks().collect();
            diagnose(&Evidence {
                step: tracker.failed(),
                remarks: &remarks,
                activity: Activity::Build,
            })
        });
        for (number, image) in self.given.images.iter().enumerate() {
            let name = format!("docker.io/library/{}", image_name(number));
            failure.message =
                failure.message.replace(&name, &format!("imageArgs.{}", image.argument));
        }
        failure
    }
}

fn unwritten(error: io::Error) -> BuildFailure {
    BuildFailure::new(storage_reason(&error), format!("the image could not be written: {error}"))
}

/// The files beside the tar. The digest file holds what the task's does: in docker's format the digest of the configuration,
/// which Docker calls the image's ID, in OCI's the digest that index.json lists first.
fn finish(
    folder: &Folder,
    tar: TarFile,
    format: OutputFormat,
    unpacks: bool,
) -> io::Result<(WrittenTar, Contents)> {
    // Here and not while it is written: a build that is stopped does not wait for a slow volume.
    tar.file.sync_all()?;
    let mut image = ImageTar::open(tar.file)?;
    let contents = oci_layout::contents(&mut image)?;
    let digest = match format {
        OutputFormat::Docker => &contents.config_digest,
        OutputFormat::Oci => &contents.digest,
    };
    let digest =
        digest.as_ref().ok_or_else(|| io::Error::other("the image's tar lists no image"))?;
    fs::write(folder.made.join(DIGEST), digest.as_str())?;
    if format == OutputFormat::Oci {
        oci_layout::unpack(&mut image, &folder.made.join(LAYOUT))?;
    }
    if unpacks {
        fs::write(folder.made.join(METADATA), contents.config.metadata())?;
    }
    let written = WrittenTar {
        path: folder.shown.join(TAR).to_string_lossy().into_owned(),
        size: i64::try_from(tar.size).map_err(io::Error::other)?,
        sha256: tar.sha256,
        format,
    };
    Ok((written, contents))
}

fn read_metadata(path: &Path) -> Result<Metadata, BuildFailure> {
    let read = || -> io::Result<Metadata> {
        match fs::read(path) {
            Ok(metadata) => Ok(serde_json::from_slice(&metadata)?),
            // buildctl writes none where nothing is exported.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Metadata::default()),
            Err(error) => Err(error),
        }
    };
    read().map_err(|error| {
        BuildFailure::new(
            FailureReason::Internal,
            format!("BuildKit's answer about the image cannot be read: {error}"),
        )
    })
}
