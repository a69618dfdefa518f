//! Builds with the client, and what comes of them.

use std::{
    collections::BTreeMap,
    future::pending,
    io::Read,
    path::Path,
    sync::{Arc, Mutex},
};

use ocibuild::buildkit::{
    Connection, Consumer, Event, Exporter, ExporterResponse, Input, Services, Solve, SolveError,
    SolveFailure, Vertex, sender::Directory,
};
use tokio::sync::oneshot;

use crate::image::{Image, Tree};

const FRONTEND: &str = "dockerfile.v0";

/// A build of a Dockerfile.
pub struct Build {
    pub solve: Solve,
    exports: Vec<Arc<Mutex<Vec<u8>>>>,
}

impl Build {
    /// Builds the Dockerfile at the top of a context, under a shared key of its own.
    pub fn of(context: &Path) -> Self {
        let input = Input::Frontend { name: FRONTEND.to_owned(), attributes: BTreeMap::new() };
        let services =
            Services { shared_key: format!("{:x}", fastrand::u128(..)), ..Services::default() };
        let solve = Solve {
            input,
            exporters: Vec::new(),
            cache_imports: Vec::new(),
            cache_exports: Vec::new(),
            services,
        };
        let build = Self { solve, exports: Vec::new() };
        build.directory("context", context).directory("dockerfile", context)
    }

    /// Solves something that is not a Dockerfile.
    pub fn input(mut self, input: Input) -> Self {
        self.solve.input = input;
        self
    }

    pub fn directory(mut self, name: &str, path: &Path) -> Self {
        let directory = Arc::new(Directory::open(path).unwrap());
        self.solve.services.directories.insert(name.to_owned(), directory);
        self
    }

    pub fn shared_key(mut self, key: &str) -> Self {
        key.clone_into(&mut self.solve.services.shared_key);
        self
    }

    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        if let Input::Frontend { attributes, .. } = &mut self.solve.input {
            attributes.insert(key.to_owned(), value.to_owned());
        }
        self
    }

    /// Adds an exporter and keeps what it sends.
    pub fn export(self, kind: &str, attributes: &[(&str, &str)]) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = bytes.clone();
        let consumer: Consumer =
            Box::new(move |mut reader| reader.read_to_end(&mut kept.lock().unwrap()).map(drop));
        let mut build = self.consume(kind, attributes, Some(consumer));
        build.exports.push(bytes);
        build
    }

    /// Adds an exporter.
    pub fn consume(
        mut self,
        kind: &str,
        attributes: &[(&str, &str)],
        consumer: Option<Consumer>,
    ) -> Self {
        let attributes = attributes.iter();
        let attributes =
            attributes.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.solve.exporters.push(Exporter { kind: kind.to_owned(), attributes, consumer });
        self
    }

    pub async fn run(self, connection: &Connection) -> Built {
        self.run_until(connection, pending(), |_| ()).await
    }

    pub async fn run_until(
        self,
        connection: &Connection,
        cancel: impl Future<Output = ()>,
        mut observe: impl FnMut(&Event),
    ) -> Built {
        let mut events = Vec::new();
        let observe = |event| {
            observe(&event);
            events.push(event);
        };
        let result = self.solve.run(connection, cancel, observe).await;
        let exports = self.exports.iter().map(|bytes| std::mem::take(&mut *bytes.lock().unwrap()));
        Built { result, exports: exports.collect(), events }
    }
}

/// Builds a context and returns the files of its image.
pub async fn build_tree(connection: &Connection, context: &Path) -> Tree {
    Build::of(context).export("tar", &[]).run(connection).await.tree()
}

/// A build that has ended.
pub struct Built {
    pub result: Result<ExporterResponse, SolveError>,
    pub exports: Vec<Vec<u8>>,
    pub events: Vec<Event>,
}

impl Built {
    /// Returns what the exporters answered. The build must have succeeded.
    #[track_caller]
    pub fn response(&self) -> &ExporterResponse {
        self.result.as_ref().unwrap_or_else(|error| panic!("{error}\n{error:?}\n{}", self.log()))
    }

    /// Returns the files of the first export, which is the tar of a filesystem.
    #[track_caller]
    pub fn tree(&self) -> Tree {
        self.response();
        Tree::read(&self.exports[0])
    }

    /// Returns the image of an export.
    #[track_caller]
    pub fn image(&self, exporter: usize) -> Image {
        self.response();
        Image::read(&self.exports[exporter])
    }

    #[track_caller]
    pub fn error(self) -> SolveError {
        self.result.expect_err("the build must fail")
    }

    /// Returns the error that the daemon answered.
    #[track_caller]
    pub fn failure(self) -> SolveFailure {
        match self.error() {
            SolveError::Failed(failure) => *failure,
            other => panic!("not a failure of the daemon: {other:?}"),
        }
    }

    /// Returns the output of all steps.
    pub fn log(&self) -> String {
        let logs = self.events.iter().filter_map(|event| match event {
            Event::Log(log) => Some(log.data.as_ref()),
            _ => None,
        });
        String::from_utf8_lossy(&logs.collect::<Vec<_>>().concat()).into_owned()
    }

    /// Returns the reports about vertices.
    pub fn vertices(&self) -> impl Iterator<Item = &Vertex> {
        self.events.iter().filter_map(|event| match event {
            Event::Vertex(vertex) => Some(vertex),
            _ => None,
        })
    }
}

/// Returns an observer, and a future that ends when a step prints the text.
pub fn printed(text: &str) -> (impl FnMut(&Event) + use<>, impl Future<Output = ()> + use<>) {
    let (sender, receiver) = oneshot::channel();
    let mut sender = Some(sender);
    let text = text.to_owned();
    let observe = move |event: &Event| {
        if let Event::Log(log) = event
            && String::from_utf8_lossy(&log.data).contains(&text)
            && let Some(sender) = sender.take()
        {
            let _ = sender.send(());
        }
    };
    (observe, async move {
        receiver.await.unwrap_or_else(|_| panic!("the build ended before the step printed"));
    })
}
