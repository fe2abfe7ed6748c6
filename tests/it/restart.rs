//! A restart that loses nothing: sockets passed from process to process, and sockets passed by a service manager.
//!
//! On SQLite where the database does not matter: what passes between the processes is the same on both.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::{Caller, Database, PASSWORD, on_both};
use crate::process::{Installation, PATIENCE, Printed, Sink, free_port};

/// Clients that call as fast as they can: some open a connection for each request, some keep theirs. Whatever a client does not get is a panic.
struct Traffic {
    clients: JoinSet<()>,
    over: Arc<AtomicBool>,
    answered: watch::Receiver<usize>,
}

impl Traffic {
    fn to(port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (count, answered) = watch::channel(0);
        let mut clients = JoinSet::new();
        for keeps in [false, true, false, true] {
            let (over, count) = (over.clone(), count.clone());
            clients.spawn(async move {
                let mut kept = None;
                while !over.load(Ordering::Relaxed) {
                    if keeps {
                        kept = Some(call_on(kept, port).await);
                    } else {
                        assert_eq!(Caller::to(port).get("/healthz").await.status, 200);
                    }
                    count.send_modify(|count| *count += 1);
                }
            });
        }
        Self {
            clients,
            over,
            answered,
        }
    }

    /// Waits for 200 more answers.
    async fn goes_on(&mut self) {
        let so_far = *self.answered.borrow();
        let more = self.answered.wait_for(|count| *count >= so_far + 200);
        let more = tokio::time::timeout(PATIENCE, more).await;
        more.expect("requests are answered")
            .expect("no client has failed");
    }

    /// Ends it; every request was answered.
    async fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("each request was answered");
        }
    }
}

/// One request on a kept connection. When the server closes one that has been used before, without a byte, the request goes out once more
/// on a new connection (RFC 9112, section 9.3.1); on a new connection nothing is forgiven.
async fn call_on(kept: Option<SendRequest<Empty<Bytes>>>, port: u16) -> SendRequest<Empty<Bytes>> {
    if let Some(mut sender) = kept
        && sender.ready().await.is_ok()
        && healthy(&mut sender, port).await.is_ok()
    {
        return sender;
    }
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("somebody listens");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    healthy(&mut sender, port).await.expect("an answer");
    sender
}

async fn healthy(sender: &mut SendRequest<Empty<Bytes>>, port: u16) -> hyper::Result<()> {
    let request = http::Request::get("/healthz")
        .header("host", format!("127.0.0.1:{port}"))
        .header("user-agent", "curl/8.5.0")
        .body(Empty::new())
        .expect("a request");
    let answer = sender.send_request(request).await?;
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.map(drop)
}

async fn installation() -> Installation {
    Installation::new(Database::Sqlite).await
}

fn door(installed: &Installation) -> PathBuf {
    installed.folder.path().join("data/handover.sock")
}

/// Waits until the log holds a sentence.
async fn logs(installed: &Installation, sentence: &str) {
    let logged = async {
        while !installed.logged().contains(sentence) {
            tokio::task::yield_now().await;
        }
    };
    let logged = tokio::time::timeout(PATIENCE, logged).await;
    assert!(logged.is_ok(), "{sentence:?} in {}", installed.logged());
}

/// A process that is to take over and can't.
async fn fails_to_take_over(installed: &Installation) -> String {
    let Printed { success, out, err } = installed.run(&["serve", "--take-over"], "").await;
    assert_eq!((success, out.as_str()), (false, ""), "{err}");
    // The log goes to standard error, too; the last line is the sentence.
    err.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_one_process_takes_over_from_another() {
    let installed = installation().await;
    let mut serving = installed.serve().await;
    let mut traffic = Traffic::to(serving.ports.0);
    for _ in 0..3 {
        traffic.goes_on().await;
        let next = installed.take_over(&serving).await;
        assert!(serving.ended().await, "the old process ends well");
        serving = next;
    }
    traffic.goes_on().await;
    traffic.end().await;
    assert_eq!(serving.admin.get("/metrics").await.status, 200);
    assert!(serving.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_runs_is_finished_by_the_old_process() {
    let installed = installation().await;
    let old = installed.serve().await;
    let mut stream = TcpStream::connect(("127.0.0.1", old.ports.0))
        .await
        .expect("it listens");
    let body = "{\"email\":\"nobody@example.com\"}";
    let head = format!(
        "POST /api/v1/user/forgot-password HTTP/1.1\r\nhost: localhost\r\nuser-agent: curl/8.5.0\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut interim = [0; 25];
    stream
        .read_exact(&mut interim)
        .await
        .expect("it wants the body");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let new = installed.take_over(&old).await;
    logs(&installed, "a new process has taken over").await;
    stream.write_all(body.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("an answer to its end");
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert!(old.ended().await);
    assert!(new.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_may_change_when_another_process_takes_over() {
    let installed = installation().await;
    let old = installed.serve().await;
    let (before, admin) = old.ports;
    let now = free_port();
    let new = installed
        .serve_at((now, admin), &["serve", "--take-over"])
        .await
        .expect("it takes over");
    assert!(old.ended().await);
    assert_eq!(new.public.get("/healthz").await.status, 200);
    assert_eq!(new.admin.get("/metrics").await.status, 200);
    let refused = TcpStream::connect(("127.0.0.1", before)).await;
    assert!(
        refused.is_err(),
        "what is not configured any more is closed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_serves_taking_over_is_an_ordinary_start() {
    let installed = installation().await;
    let ports = (free_port(), free_port());
    let first = installed
        .serve_at(ports, &["serve", "--take-over"])
        .await
        .expect("it serves");
    assert!(first.stop().await);
    // The door of a process that has gone leads nowhere.
    assert!(door(&installed).exists());
    let second = installed
        .serve_at(ports, &["serve", "--take-over"])
        .await
        .expect("it serves");
    assert!(second.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_told_with_the_ways_out() {
    let mut installed = installation().await;
    let first = installed.serve().await;
    installed.set_ports(first.ports);
    let second = installed.run(&["serve"], "").await;
    assert_eq!(
        (second.success, second.err),
        (
            false,
            format!(
                "cargoextra: server.listen: can't listen on 127.0.0.1:{} (Address already in use (os error 98)); stop what uses it or choose another; if a cargoextra of the same server.data_dir uses it, `serve --take-over` takes its place\n",
                first.ports.0
            )
        )
    );
    assert!(first.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_fails_changes_nothing() {
    let mut installed = installation().await;
    installed.set("server.handover_timeout", "3s");
    let serving = installed.serve().await;
    installed.set_ports(serving.ports);

    installed.set("hash.threads", "many");
    assert_eq!(
        fails_to_take_over(&installed).await,
        "cargoextra: CARGOEXTRA_HASH__THREADS: `many` is not a whole number"
    );
    installed.set("hash.threads", "1");

    let database = installed.database.clone();
    installed.set("database.url", "postgres://nobody@127.0.0.1:1/none");
    installed.set("database.acquire_timeout", "100ms");
    let said = fails_to_take_over(&installed).await;
    assert!(
        said.starts_with("cargoextra: the database can't be reached; check database.url"),
        "{said}"
    );
    installed.set("database.url", &database);
    logs(&installed, "the new process has given up").await;

    // Not one that fails at the last thing that it needs, either.
    let token = installed.folder.path().join("data/admin.token");
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(&token, mode(0o640)).expect("it is ours");
    let said = fails_to_take_over(&installed).await;
    assert!(said.contains("admin.token"), "{said}");
    std::fs::set_permissions(&token, mode(0o600)).expect("it is ours");
    assert_eq!(serving.public.get("/healthz").await.status, 200);

    // One that says nothing for too long.
    let mut silent = UnixStream::connect(door(&installed))
        .await
        .expect("the door is open");
    silent.write_all(b"handover 1\n").await.expect("it listens");
    let mut said = String::new();
    silent.read_to_string(&mut said).await.expect("text");
    assert_eq!(said, "2\nlate\n");
    logs(
        &installed,
        "the new process was not ready within server.handover_timeout",
    )
    .await;

    // One of a release that speaks otherwise.
    let mut foreign = UnixStream::connect(door(&installed))
        .await
        .expect("the door is open");
    foreign
        .write_all(b"handover 7\n")
        .await
        .expect("it listens");
    let mut said = String::new();
    foreign.read_to_string(&mut said).await.expect("text");
    assert_eq!(
        said,
        "the two processes are too different for a hand-over; stop the old one\n"
    );

    assert_eq!(serving.public.get("/healthz").await.status, 200);
    let next = installed.take_over(&serving).await;
    assert!(serving.ended().await);
    assert!(next.stop().await);
}

/// The test plays the old process, which has no sockets to pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_serves_when_the_old_process_is_gone_and_not_when_it_goes_on() {
    let mut installed = installation().await;
    let ports = (free_port(), free_port());
    installed.set_ports(ports);
    std::fs::create_dir_all(installed.folder.path().join("data")).expect("a folder");
    let listener = UnixListener::bind(door(&installed)).expect("a socket");
    let play = |last: &'static str| {
        let listener = &listener;
        async move {
            let (mut stream, _) = listener.accept().await.expect("it comes");
            let mut heard = [0; 11];
            stream.read_exact(&mut heard).await.expect("it says hello");
            assert_eq!(&heard, b"handover 1\n");
            stream.write_all(b"0\n").await.expect("it listens");
            let mut heard = [0; 6];
            stream.read_exact(&mut heard).await.expect("it gets ready");
            assert_eq!(&heard, b"ready\n");
            stream.write_all(last.as_bytes()).await.expect("it listens");
        }
    };
    let (said, ()) = tokio::join!(fails_to_take_over(&installed), play("late\n"));
    assert_eq!(
        said,
        "cargoextra: the running process did not wait so long and goes on; raise server.handover_timeout"
    );
    let (started, ()) = tokio::join!(
        installed.serve_at(ports, &["serve", "--take-over"]),
        play("")
    );
    let serving = started.expect("it serves");
    assert_eq!(serving.public.get("/healthz").await.status, 200);
    assert!(serving.stop().await);
}

on_both! {
    async fn a_mail_that_the_old_process_is_sending_is_not_sent_by_the_new_one(database) {
        // It tells of a mail as soon as it has come, and takes it four seconds later: so long the old process is sending.
        let mut sink = Sink::start(&["--delay", "4", "--announce"]).await;
        let mut installed = Installation::new(database).await;
        installed.set("mail.transport", "smtp");
        installed.set("mail.smtp_url", &format!("smtp://127.0.0.1:{}", sink.port));
        let old = installed.serve().await;
        let register = |email: &'static str| json!({ "email": email, "password": PASSWORD });
        assert_eq!(old.public.post("register", register("ada@example.com")).await.status, 201);
        assert_eq!(sink.next().await.to, ["ada@example.com"]);
        let new = installed.take_over(&old).await;
        assert_eq!(new.public.post("register", register("eve@example.com")).await.status, 201);
        assert_eq!(sink.next().await.to, ["eve@example.com"]);
        assert!(old.ended().await);
        assert!(new.stop().await);
        assert_eq!(sink.rest().await, 0);
    }
}

/// A service manager in Python: it binds, passes its sockets, and restarts the process when it is told to.
struct Manager {
    child: tokio::process::Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Manager {
    #[expect(
        clippy::disallowed_methods,
        reason = "how scripts/test tells the tests which Python to use"
    )]
    fn start(installed: &Installation, ports: &[u16]) -> Self {
        let python = std::env::var("CARGOEXTRA_TEST_PYTHON")
            .expect("CARGOEXTRA_TEST_PYTHON names a Python; ./scripts/test sets it");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sockets/manager.py");
        let mut command = Command::new(python);
        command
            .arg(script)
            .arg(crate::process::BINARY)
            .args(ports.iter().map(u16::to_string))
            .current_dir(installed.folder.path())
            .envs(installed.environment().iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // Not killed at the end: without input it ends what it started.
        let mut child = command.spawn().expect("Python starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// The next line that holds a text.
    async fn says(&mut self, text: &str) -> String {
        let said = async {
            loop {
                let line = self.lines.next_line().await.expect("text").expect("a line");
                if line.contains(text) {
                    return line;
                }
            }
        };
        let said = tokio::time::timeout(PATIENCE, said).await;
        said.expect("it says so")
    }

    async fn tell(&mut self, word: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        stdin
            .write_all(format!("{word}\n").as_bytes())
            .await
            .expect("it reads");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_when_a_service_manager_keeps_the_sockets() {
    let mut installed = installation().await;
    let (public, admin) = (free_port(), free_port());
    installed.set_ports((public, admin));
    let mut manager = Manager::start(&installed, &[admin, public]);
    manager.says(" serves ").await;
    let mut traffic = Traffic::to(public);
    for _ in 0..2 {
        traffic.goes_on().await;
        manager.tell("restart").await;
        assert_eq!(manager.says("ended").await, "ended 0");
        manager.says(" serves ").await;
    }
    traffic.goes_on().await;
    traffic.end().await;
    assert_eq!(Caller::to(admin).get("/metrics").await.status, 200);
    manager.tell("stop").await;
    assert_eq!(manager.says("ended").await, "ended 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passed_socket_that_nobody_configured_is_refused() {
    let mut installed = installation().await;
    let (public, admin, other) = (free_port(), free_port(), free_port());
    installed.set_ports((public, admin));
    let mut manager = Manager::start(&installed, &[public, other]);
    let sentence = format!(
        "cargoextra: LISTEN_FDS: a socket for 127.0.0.1:{other} was passed; name this address in server.listen, server.tls.listen or admin.listen, or take it out of the socket unit"
    );
    assert_eq!(manager.says("cargoextra:").await, sentence);
    assert_eq!(manager.says("ended").await, "ended 1");
}
