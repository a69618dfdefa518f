//! One stage of the Dockerfile, from its solve to the files that it leaves.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{
    deadlines::RunPhase,
    diagnose::{Activity, Evidence, diagnose},
    image_tar::ImageTar,
    inputs::BuildInputs,
    locate::Located,
    oci_layout::{self, Contents},
    output::{
        DIGEST, LAYOUT, METADATA, Staging, TAR, TarFile, storage_reason, write_rootfs, write_tar,
    },
    request::{
        CONTEXT, DOCKERFILE, Destination, FRONTEND, Output, Target, build_request, image_name,
    },
    result::{BuildFailure, WrittenTar},
    solver::{self, Solver},
    stop::Stop,
};
use crate::{
    api::{FailureReason, OutputFormat},
    buildkit::{
        Consumer, Exporter, ExporterResponse, Input, Services, Solve, SolveError, SolveFailure,
        sender::Directory,
    },
    plan::{Digest, ImageReference, instructions::Instructions},
};

/// Bytes of a line of the Dockerfile in the log.
const MAX_LINE_BYTES: usize = 1024;

/// Bytes of a media type or a platform. The result of a build has no room for longer ones.
const MAX_NAME_BYTES: usize = 256;

/// What all stages of a build share.
pub struct TargetRun<'a> {
    /// What is to be done.
    pub instructions: &'a Instructions,
    /// Context and Dockerfile.
    pub located: &'a Located,
    pub inputs: &'a BuildInputs,
    pub solver: &'a Solver,
    /// Where the files go; none if the image is only pushed.
    pub staging: Option<&'a Staging>,
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
    pub platforms: Vec<String>,
    /// The tar, if one was asked for.
    pub tar: Option<WrittenTar>,
}

/// What the exporters answered about the image.
#[derive(Debug, PartialEq, Eq)]
pub struct ExportedImage {
    /// Digest of the manifest, or of the index. None if nothing was exported.
    pub digest: Option<Digest>,
    pub config_digest: Option<Digest>,
    pub media_type: Option<String>,
    /// For example `linux/amd64`.
    pub platform: Option<String>,
}

impl ExportedImage {
    /// Reads an answer. A media type or a platform that is too long counts as unknown.
    pub fn read(response: &ExporterResponse) -> Result<Self, BuildFailure> {
        let is_short = |text: &String| text.len() <= MAX_NAME_BYTES;
        let descriptor = descriptor(response);
        let platform = descriptor.as_ref().and_then(|descriptor| descriptor.platform.as_ref());
        Ok(Self {
            digest: digest(response, "containerimage.digest")?,
            config_digest: digest(response, "containerimage.config.digest")?,
            platform: platform.map(Platform::text).filter(is_short),
            media_type: descriptor.and_then(|descriptor| descriptor.media_type).filter(is_short),
        })
    }
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
    /// Builds a stage and leaves its files in the staging folder. Returns `None` if the solve has
    /// no image digest.
    pub async fn build(
        &self,
        stage: Option<&str>,
        is_main: bool,
        stop: &mut Stop,
    ) -> Result<Option<BuiltTarget>, BuildFailure> {
        let folder = match self.staging {
            Some(staging) => {
                let (made, shown) =
                    staging.target(stage.filter(|_| !is_main)).map_err(not_written)?;
                Some(Folder { made, shown })
            }
            None => None,
        };
        let mut files = ExportedFiles::default();
        let solve = self.solve(stage, is_main, folder.as_ref(), &mut files)?;
        stop.enter(RunPhase::Build);
        let response = self.solver.run(solve, stop).await.map_err(|error| self.failed(&error))?;
        stop.enter(RunPhase::Export);
        if let Some(left_out) = files.left_out().filter(|left_out| *left_out > 0) {
            let warning =
                format!("{left_out} devices and pipes of the image were left out of rootfs");
            self.solver.tracker().with(|tracker| tracker.warn(&warning));
        }
        let mut image = ExportedImage::read(&response)?;
        let Some(digest) = image.digest.take() else { return Ok(None) };
        let written = match (folder, files.tar()) {
            (Some(folder), Some(tar)) => {
                let format = self.instructions.image.format;
                let unpacks = self.instructions.image.unpack_rootfs;
                let finish = move || finish(&folder, tar, format, unpacks).map_err(not_written);
                Some(stop.unless_asked(finish).await?)
            }
            _ => None,
        };
        Ok(Some(self.built(digest, image, written)))
    }

    fn solve(
        &self,
        stage: Option<&str>,
        is_main: bool,
        folder: Option<&Folder>,
        files: &mut ExportedFiles,
    ) -> Result<Solve, BuildFailure> {
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
        let request = build_request(self.instructions, self.located, self.inputs, &target);
        let outputs = request.outputs.into_iter();
        Ok(Solve {
            input: Input::Frontend { name: FRONTEND.to_owned(), attributes: request.attributes },
            exporters: outputs.map(|output| files.exporter(output, folder)).collect(),
            cache_imports: request.cache_imports,
            cache_exports: request.cache_exports,
            services: self.services()?,
        })
    }

    fn built(
        &self,
        digest: Digest,
        image: ExportedImage,
        written: Option<(WrittenTar, Contents)>,
    ) -> BuiltTarget {
        let (tar, contents) = written.unzip();
        let of_contents =
            contents.as_ref().map(|contents| contents.platforms.clone()).unwrap_or_default();
        let platforms = [
            of_contents,
            image.platform.into_iter().collect(),
            self.instructions.parameters.platforms.clone(),
        ];
        let known = platforms.into_iter().find(|platforms| !platforms.is_empty());
        BuiltTarget {
            digest,
            config_digest: image.config_digest.or_else(|| contents.as_ref()?.config_digest.clone()),
            size: contents.map(|contents| contents.size),
            media_type: image.media_type,
            platforms: known.unwrap_or_default(),
            tar,
        }
    }

    /// An additional image is not pushed; its tar names it so that it does not take the place of
    /// the main one when it is loaded.
    fn additional_references(&self, stage: Option<&str>) -> Vec<ImageReference> {
        let main = self.instructions.references.first();
        main.zip(stage).and_then(|(main, stage)| main.with_tag_suffix(stage)).into_iter().collect()
    }

    fn services(&self) -> Result<Services, BuildFailure> {
        // Opened by descriptor: a directory replaced by a symlink is rejected.
        let open = |path: &Path| {
            let below = path.strip_prefix(&self.located.root).unwrap_or(path);
            let root = Directory::open(&self.located.root);
            root.and_then(|root| root.open_below(below)).map(Arc::new).map_err(|error| {
                let message = format!("cannot open {:?} of the source: {error}", below.display());
                BuildFailure::new(FailureReason::SourceUnreadable, message)
            })
        };
        let images = self.inputs.images.iter().enumerate();
        Ok(Services {
            directories: BTreeMap::from([
                (CONTEXT.to_owned(), open(&self.located.context)?),
                (DOCKERFILE.to_owned(), open(&self.located.dockerfile_directory)?),
            ]),
            secrets: self.inputs.secrets.clone(),
            ssh: self.inputs.ssh.clone(),
            layouts: images
                .map(|(number, image)| (image_name(number), image.layout.clone()))
                .collect(),
            ..self.solver.services()
        })
    }

    fn failed(&self, error: &SolveError) -> BuildFailure {
        if let SolveError::Failed(failure) = error {
            let lines: Vec<String> = self.solver.tracker().with(|tracker| {
                excerpt(failure).iter().map(|line| tracker.redact(line, MAX_LINE_BYTES)).collect()
            });
            solver::print(&lines);
        }
        let mut failure = self.solver.tracker().with(|tracker| {
            diagnose(&Evidence { error, step: tracker.failed(), activity: Activity::Build })
        });
        for (number, image) in self.inputs.images.iter().enumerate() {
            let name = format!("docker.io/library/{}", image_name(number));
            let argument = format!("imageArgs.{}", image.argument);
            failure.message = failure.message.replace(&name, &argument);
        }
        failure
    }
}

fn not_written(error: io::Error) -> BuildFailure {
    BuildFailure::new(storage_reason(&error), format!("the output cannot be written: {error}"))
}

/// Files written from a solve's exports.
#[derive(Default)]
struct ExportedFiles {
    tar: Option<oneshot::Receiver<TarFile>>,
    left_out: Option<oneshot::Receiver<u64>>,
}

impl ExportedFiles {
    /// Creates an exporter and stores its receiver.
    fn exporter(&mut self, output: Output, folder: Option<&Folder>) -> Exporter {
        let folder = folder.map(|folder| folder.made.clone());
        let consumer: Option<Consumer> = match (output.destination, folder) {
            (Destination::Tar, Some(folder)) => {
                let (sender, receiver) = oneshot::channel();
                self.tar = Some(receiver);
                Some(Box::new(move |stream| {
                    let _ = sender.send(write_tar(&folder, stream)?);
                    Ok(())
                }))
            }
            (Destination::Rootfs, Some(folder)) => {
                let (sender, receiver) = oneshot::channel();
                self.left_out = Some(receiver);
                Some(Box::new(move |stream| {
                    let _ = sender.send(write_rootfs(&folder, stream)?);
                    Ok(())
                }))
            }
            _ => None,
        };
        Exporter { kind: output.kind.to_owned(), attributes: output.attributes, consumer }
    }

    /// The tar, once the solve has succeeded.
    fn tar(&mut self) -> Option<TarFile> {
        self.tar.take()?.try_recv().ok()
    }

    /// Returns the number of skipped devices.
    fn left_out(&mut self) -> Option<u64> {
        self.left_out.take()?.try_recv().ok()
    }
}

/// The lines of the Dockerfile that failed, as BuildKit's own client prints them.
fn excerpt(failure: &SolveFailure) -> Vec<String> {
    let Some(location) = failure.location.as_ref().filter(|_| !failure.excerpt.is_empty()) else {
        return Vec::new();
    };
    let rule = "-".repeat(20);
    let lines = failure.excerpt.iter().map(|line| {
        let mark = if line.is_failed { ">>>" } else { "   " };
        format!("{:>4} | {mark} {}", line.number, line.text)
    });
    let title = format!("{}:{}", location.file, location.first_line);
    [title, rule.clone()].into_iter().chain(lines).chain([rule]).collect()
}

fn digest(response: &ExporterResponse, key: &str) -> Result<Option<Digest>, BuildFailure> {
    let text = response.get(key).filter(|text| !text.is_empty());
    text.map(|text| Digest::try_from(text.clone())).transpose().map_err(|error| {
        BuildFailure::new(FailureReason::Internal, format!("BuildKit's {key} is invalid: {error}"))
    })
}

/// The descriptor of the manifest or index, which is JSON in base64.
fn descriptor(response: &ExporterResponse) -> Option<Descriptor> {
    let text = response.get("containerimage.descriptor")?;
    serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()
}

/// The files beside the tar. The digest file holds what the task's does: in docker's format the
/// digest of the configuration, which Docker calls the image's ID, in OCI's the digest that
/// index.json lists first.
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
