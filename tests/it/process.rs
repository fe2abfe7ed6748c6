//! The real binary as a process of its own, and a foreign mail server beside it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::app::{Caller, Database, fresh_postgres};

/// How long anything may take that a test waits for. Reached only when the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const BINARY: &str = env!("CARGO_BIN_EXE_cargoextra");

/// An installation: a folder, a database, and the environment that its processes get.
pub struct Installation {
    pub folder: tempfile::TempDir,
    pub database: String,
    environment: Vec<(String, String)>,
}

/// A running `cargoextra serve`.
pub struct Process {
    child: Child,
    /// Kept open: it goes on printing.
    out: Lines<BufReader<ChildStdout>>,
    pub public: Caller,
    pub admin: Caller,
    pub ports: Ports,
}

/// The public port and the admin port.
pub type Ports = (u16, u16);

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Printed {
    pub success: bool,
    pub out: String,
    pub err: String,
}

impl Installation {
    pub async fn new(database: Database) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = match database {
            Database::Sqlite => {
                format!("sqlite://{}", folder.path().join("data/test.db").display())
            }
            Database::Postgres => fresh_postgres().await,
        };
        let data = folder.path().join("data").display().to_string();
        let mut made = Self {
            folder,
            database: database.clone(),
            environment: Vec::new(),
        };
        made.set("database.url", &database);
        made.set("server.data_dir", &data);
        made.set("hash.threads", "1");
        made.set("server.listen", "127.0.0.1:0");
        made.set("admin.listen", "127.0.0.1:0");
        made
    }

    /// Sets a key for every process and command from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        let name = format!("CARGOEXTRA_{}", key.to_uppercase().replace('.', "__"));
        self.environment.retain(|(found, _)| *found != name);
        self.environment.push((name, value.to_owned()));
    }

    /// Starts `serve` on free ports and waits until it says that it serves.
    pub async fn serve(&self) -> Process {
        self.serve_given(&[]).await
    }

    /// The same with a configuration file of the folder.
    pub async fn serve_with(&self, file: &str) -> Process {
        self.serve_given(&["--config", file]).await
    }

    async fn serve_given(&self, arguments: &[&str]) -> Process {
        let mut said = String::new();
        // A port that was free a moment ago may be taken: then others are tried.
        for _ in 0..5 {
            let ports = (free_port(), free_port());
            match self.serve_at(ports, arguments).await {
                Ok(process) => return process,
                Err(why) => said = why,
            }
        }
        panic!("cargoextra does not serve: {said}");
    }

    /// Starts a process on the ports of another, which is to take its place, and waits until it says that it serves.
    pub async fn take_over(&self, before: &Process) -> Process {
        let took = self.serve_at(before.ports, &["serve", "--take-over"]).await;
        took.expect("it takes over")
    }

    /// Starts a process and waits until it says that it serves.
    pub async fn serve_at(&self, ports: Ports, arguments: &[&str]) -> Result<Process, String> {
        let (public, admin) = ports;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("a log file");
        let mut child = self
            .command()
            .args(arguments)
            .env("CARGOEXTRA_SERVER__LISTEN", format!("127.0.0.1:{public}"))
            .env("CARGOEXTRA_ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary was built");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        match first {
            Ok(Ok(Some(line))) if line.contains(" serves ") || line.contains(" demo") => {
                Ok(Process {
                    child,
                    out: lines,
                    public: Caller::to(public),
                    admin: Caller::to(admin).header("user-agent", ""),
                    ports,
                })
            }
            other => Err(format!("{other:?}; {}", self.logged())),
        }
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Printed {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built");
        let mut stdin = child.stdin.take().expect("it is piped");
        // One that ends without reading is fine.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let done = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let done = done.expect("it ends").expect("it ran");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Printed {
            success: done.status.success(),
            out: text(done.stdout),
            err: text(done.stderr),
        }
    }

    /// Has every process and command from now on use these ports.
    pub fn set_ports(&mut self, (public, admin): Ports) {
        self.set("server.listen", &format!("127.0.0.1:{public}"));
        self.set("admin.listen", &format!("127.0.0.1:{admin}"));
    }

    /// What its processes and commands get.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .current_dir(self.folder.path())
            .envs(self.environment.iter().cloned())
            .kill_on_drop(true);
        command
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Waits until its processes have logged this.
    pub async fn until_logged(&self, text: &str) {
        let mut every = tokio::time::interval(Duration::from_millis(5));
        let logged = async {
            while !self.logged().contains(text) {
                every.tick().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, logged).await;
        assert!(waited.is_ok(), "no {text:?} in {}", self.logged());
    }

    /// What its processes logged so far.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Process {
    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// What it prints behind a word at the beginning of a line.
    pub async fn prints(&mut self, word: &str) -> String {
        let found = async {
            loop {
                let line = self.out.next_line().await.expect("text").expect("a line");
                if let Some(rest) = line.trim().strip_prefix(word) {
                    return rest.trim().to_owned();
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("it does not print {word}"))
    }

    /// Where the public listener is.
    pub fn address(&self) -> SocketAddr {
        self.public.target()
    }

    /// SIGHUP: read the configuration again.
    pub async fn hang_up(&self) {
        self.signal("-HUP").await;
    }

    /// SIGTERM, and until it has ended.
    pub async fn stop(self) -> bool {
        self.signal("-TERM").await;
        self.ended().await
    }

    pub async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let told = Command::new("kill").args([name, &id]).status().await;
        assert!(told.is_ok_and(|status| status.success()));
    }

    /// Waits until it ends; whether well.
    pub async fn ended(mut self) -> bool {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it stops").expect("it ran").success()
    }

    /// Captured mails to an address, newest first.
    pub async fn mails(&self, to: &str) -> Vec<Value> {
        let path = format!("/dev/mailbox/messages?to={to}");
        let reply = self.admin.get(&path).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.body().as_array().expect("a list").clone()
    }

    /// The code in the newest mail to an address, as soon as there are `count` mails.
    pub async fn code(&self, to: &str, count: usize) -> String {
        let arrived = async {
            loop {
                let mails = self.mails(to).await;
                if mails.len() >= count {
                    return mails[0]["text"].as_str().expect("text").to_owned();
                }
            }
        };
        let text = tokio::time::timeout(PATIENCE, arrived).await;
        crate::app::code_in(&text.expect("the mail arrives"))
    }
}

/// A mail server that this project did not write (`tests/smtp/sink.py`).
pub struct Sink {
    child: Child,
    pub port: u16,
    /// Read all the time: a full pipe would hold the server up.
    taken: mpsc::UnboundedReceiver<Taken>,
}

/// A mail as the server took it.
#[derive(Debug)]
pub struct Taken {
    pub to: Vec<String>,
    pub data: String,
}

impl Sink {
    pub async fn start(options: &[&str]) -> Self {
        let (child, port, mut lines) = foreign("tests/smtp/sink.py", options).await;
        let (send, taken) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = send.send(Taken::from_line(&line));
            }
        });
        Self { child, port, taken }
    }

    /// Waits for the next mail.
    pub async fn next(&mut self) -> Taken {
        let taken = tokio::time::timeout(PATIENCE, self.taken.recv()).await;
        taken.expect("a mail arrives").expect("the server runs")
    }

    /// Ends the server; how many mails it took that nobody has looked at.
    pub async fn rest(mut self) -> usize {
        self.child.kill().await.expect("it runs");
        let mut count = 0;
        while self.taken.recv().await.is_some() {
            count += 1;
        }
        count
    }
}

/// A server that this project did not write, behind a few lines of Python: the process, its port, and what it tells.
#[expect(
    clippy::disallowed_methods,
    reason = "how scripts/test tells the tests which Python has what they need"
)]
pub async fn foreign(
    script: &str,
    options: &[&str],
) -> (Child, u16, Lines<BufReader<ChildStdout>>) {
    let python = std::env::var("CARGOEXTRA_TEST_PYTHON").expect(
        "CARGOEXTRA_TEST_PYTHON names a Python with what the tests need; ./scripts/test installs one",
    );
    let mut child = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script))
        .args(options)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Python starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    let first = first.expect("it starts").expect("UTF-8").expect("a line");
    let port = first.strip_prefix("PORT ").expect("its first line");
    (child, port.parse().expect("a port"), lines)
}

impl Taken {
    fn from_line(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let to = value["to"].as_array().expect("a list").iter();
        Self {
            to: to.map(|to| to.as_str().expect("text").to_owned()).collect(),
            data: value["data"].as_str().expect("text").to_owned(),
        }
    }

    /// The value of a header, its folded lines joined.
    pub fn header(&self, name: &str) -> Vec<String> {
        let head = self.data.split("\r\n\r\n").next().unwrap_or_default();
        let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
        let prefix = format!("{}:", name.to_lowercase());
        let found = unfolded
            .split("\r\n")
            .filter(|line| line.to_lowercase().starts_with(&prefix))
            .map(|line| line[prefix.len()..].trim().to_owned());
        found.collect()
    }
}

/// A free port below those that the system gives to outgoing connections (32768 and up): one of those may be taken between this look and
/// its use, and is not free for a minute after.
pub fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        // Tests that run at the same time are different processes, and begin at different ports.
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        let place = (std::process::id().wrapping_mul(64) + tried) % 20_000;
        let port = 10_000 + u16::try_from(place).expect("less than 20,000");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
