//! What the task prints. Nobody may be reading it, while a web node of Concourse restarts for example, and a write waits until
//! somebody does: so a thread of its own writes, and the task keeps renewing its lease and hears when it is to stop.

use std::{
    io::{self, Write},
    sync::{Arc, LazyLock, mpsc},
    thread,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

/// How many lines of a build's log may wait to be written. Beyond it the log waits in the cluster, which has more room for it.
const ROOM: usize = 1000;

/// The printer of this process: one, so that its lines keep their order.
pub static PRINTER: LazyLock<Printer> =
    LazyLock::new(|| Printer::start(io::stdout(), io::stderr()));

/// Lines on their way to whoever reads the task.
pub struct Printer {
    queue: mpsc::Sender<Entry>,
    room: Arc<Semaphore>,
}

/// What the thread is to do next.
enum Entry {
    Line {
        text: String,
        /// The place that a line of the log takes up until it is written.
        room: Option<OwnedSemaphorePermit>,
    },
    Error(String),
    /// Answered when all before it was written.
    Mark(oneshot::Sender<()>),
}

impl Printer {
    /// Starts the thread that writes.
    pub fn start(output: impl Write + Send + 'static, errors: impl Write + Send + 'static) -> Self {
        let (queue, entries) = mpsc::channel();
        thread::spawn(move || write(entries, output, errors));
        Self { queue, room: Arc::new(Semaphore::new(ROOM)) }
    }

    /// Prints one of the task's own lines. They are few: none of them waits for room.
    pub fn say(&self, line: &str) {
        self.put(Entry::Line { text: line.to_owned(), room: None });
    }

    /// Prints why the task failed, where errors go.
    pub fn error(&self, line: &str) {
        self.put(Entry::Error(line.to_owned()));
    }

    /// Prints a line of the build's log when there is room for it. Whoever stops waiting has not printed it.
    pub async fn log(&self, line: String) {
        // The semaphore is never closed; if it were, the line would go without a place.
        let room = Arc::clone(&self.room).acquire_owned().await.ok();
        self.put(Entry::Line { text: line, room });
    }

    /// Waits until all that was printed so far is written, but no longer than `patience`.
    pub async fn flush(&self, patience: Duration) {
        let (written, mark) = oneshot::channel();
        self.put(Entry::Mark(written));
        let _ = timeout(patience, mark).await;
    }

    fn put(&self, entry: Entry) {
        // The thread takes entries for as long as there is a printer.
        let _ = self.queue.send(entry);
    }
}

/// Writes for as long as there is a printer. A reader that is gone is no reason to end the build, or to keep its log waiting: what
/// cannot be written is dropped.
fn write(entries: mpsc::Receiver<Entry>, mut output: impl Write, mut errors: impl Write) {
    for entry in entries {
        match entry {
            Entry::Line { text, room } => {
                let _ = writeln!(output, "{text}");
                drop(room);
            }
            Entry::Error(text) => {
                let _ = writeln!(errors, "{text}");
            }
            Entry::Mark(written) => {
                let _ = written.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SOON: Duration = Duration::from_millis(100);
    const LATE: Duration = Duration::from_secs(30);

    /// Takes nothing until the other end of its gate is dropped.
    struct Stalled {
        gate: mpsc::Receiver<()>,
        written: Written,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.gate.recv();
            self.written.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone())
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A pipe that nobody reads any more.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[tokio::test]
    async fn a_reader_that_stalls_holds_up_the_log_and_nothing_else() {
        let (release, gate) = mpsc::channel::<()>();
        let written = Written::default();
        let printer = Printer::start(Stalled { gate, written: written.clone() }, io::sink());

        let mut expected: Vec<String> = (0..ROOM).map(|number| number.to_string()).collect();
        for line in &expected {
            timeout(LATE, printer.log(line.clone())).await.expect("there is room");
        }
        // One thread drives this test: that the time passes shows that others go on.
        let mut beyond = Box::pin(printer.log("beyond".to_owned()));
        timeout(SOON, &mut beyond).await.expect_err("a line without room waits");
        printer.say("said");
        timeout(LATE, printer.flush(SOON)).await.expect("a flush ends while nobody reads");
        assert!(written.lines().is_empty());

        drop(release);
        timeout(LATE, beyond).await.expect("there is room again");
        printer.flush(LATE).await;
        expected.extend(["said".to_owned(), "beyond".to_owned()]);
        assert_eq!(written.lines(), expected);
    }

    #[tokio::test]
    async fn a_line_that_was_not_waited_for_is_not_printed() {
        let (release, gate) = mpsc::channel::<()>();
        let written = Written::default();
        let printer = Printer::start(Stalled { gate, written: written.clone() }, io::sink());
        for number in 0..ROOM {
            printer.log(number.to_string()).await;
        }
        timeout(SOON, printer.log("given up".to_owned()))
            .await
            .expect_err("a line without room waits");
        drop(release);
        printer.flush(LATE).await;
        assert_eq!(written.lines().len(), ROOM);
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_keeps_nobody_waiting() {
        let errors = Written::default();
        let printer = Printer::start(Gone, errors.clone());
        for _ in 0..3 * ROOM {
            timeout(LATE, printer.log("lost".to_owned()))
                .await
                .expect("lines are taken all the same");
        }
        printer.error("error: why");
        printer.flush(LATE).await;
        assert_eq!(errors.lines(), ["error: why"]);
    }
}
