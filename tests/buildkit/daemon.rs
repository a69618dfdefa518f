//! BuildKit daemons of the tests' own.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use ocibuild::buildkit::{Address, ClientTls, ConnectError, Connection};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::certificates::{Authority, client_tls};

const START_TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);

/// Starts the daemon in a mount namespace of its own, so that its mounts vanish with it. The shell
/// kills the daemon when its standard input closes, at the latest when the tests end.
const SCRIPT: &str = r#"unshare --mount "$@" & echo $!; read _; kill -9 $!; wait; rm -rf "$0""#;

/// A daemon that listens on a unix socket, and on TCP with mutual TLS.
pub struct Daemon {
    child: Child,
    input: Option<ChildStdin>,
    pid: Pid,
    unix: Address,
    pub tcp: Address,
    pub authority: Authority,
    folder: TempDir,
}

impl Daemon {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let authority = Authority::new();
        let server = authority.server();
        fs::write(path("ca.pem"), authority.pem()).unwrap();
        fs::write(path("certificate.pem"), server.certificate).unwrap();
        fs::write(path("key.pem"), server.key).unwrap();
        let unix = Address::Unix(path("sock"));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let tcp = Address::Tcp { host: "127.0.0.1".to_owned(), port };
        let program = env::var_os("OCIBUILD_TEST_BUILDKITD").unwrap_or_else(|| "buildkitd".into());
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .arg(folder.path())
            .arg(program)
            .arg(format!("--addr={unix}"))
            .arg(format!("--addr={tcp}"))
            .arg(format!("--tlscacert={}", path("ca.pem").display()))
            .arg(format!("--tlscert={}", path("certificate.pem").display()))
            .arg(format!("--tlskey={}", path("key.pem").display()))
            .arg(format!("--root={}", path("state").display()))
            .args(["--containerd-worker=false", "--oci-worker-net=host"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        Self { child, input, pid, unix, tcp, authority, folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    /// Connects over the unix socket, as soon as the daemon listens.
    pub async fn connect(&self) -> Connection {
        self.connect_to(&self.unix, None).await.unwrap()
    }

    /// Connects as soon as the daemon listens.
    pub async fn connect_to(
        &self,
        address: &Address,
        tls: Option<&ClientTls>,
    ) -> Result<Connection, ConnectError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match Connection::open(address, tls).await {
                Err(ConnectError::Connect { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(CONNECT_INTERVAL).await;
                }
                Err(error @ ConnectError::Connect { .. }) => {
                    let log = fs::read_to_string(self.folder.path().join("log"));
                    panic!("{error}\n{}", log.unwrap_or_default())
                }
                result => return result,
            }
        }
    }

    /// Returns the settings with which the daemon accepts a client.
    pub fn client_tls(&self) -> ClientTls {
        client_tls(&self.authority, &self.authority)
    }

    /// Kills the daemon. Running steps outlive it.
    pub fn kill(&mut self) {
        self.input = None;
        self.child.wait().unwrap();
    }

    /// Stops the daemon as if its machine hung.
    pub fn freeze(&self) {
        kill_process(self.pid, Signal::STOP).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.input.is_some() {
            self.kill();
        }
    }
}

/// The daemon of all tests that do not harm theirs.
pub fn shared() -> &'static Daemon {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(Daemon::start)
}

/// Connects to the shared daemon.
pub async fn connect() -> Connection {
    shared().connect().await
}
