//! A downstream service that speaks bytes: it keeps what it saw, and answers as the path asks. And a client that speaks bytes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cargoextra::config::Config;
use cargoextra::config::edge::RawEdge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Longer than anything here takes; a test that meets it has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Downstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    /// What `/events` streams has sent so far.
    events: watch::Sender<Vec<String>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Downstream {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address")).await
    }

    /// At an address that was known before.
    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (events, listening) = watch::channel(Vec::new());
        let log = seen.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, log.clone(), listening.clone()));
            }
        });
        Self {
            address,
            seen,
            events,
            accepting,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests since the last call, each as its bytes came.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().expect("nobody panics with it"))
    }

    pub fn push(&self, event: &str) {
        self.events.send_modify(|sent| sent.push(event.to_owned()));
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: Arc<Mutex<Vec<String>>>,
    events: watch::Receiver<Vec<String>>,
) {
    let mut input = String::new();
    while let Some(message) = message(&mut stream, &mut input).await {
        let path = message.split(' ').nth(1).unwrap_or_default().to_owned();
        seen.lock()
            .expect("nobody panics with it")
            .push(message.clone());
        if !answer(&mut stream, &path, &message, events.clone()).await {
            return;
        }
    }
}

/// The next whole request; none at the end.
async fn message(stream: &mut TcpStream, input: &mut String) -> Option<String> {
    loop {
        if let Some(length) = length(input) {
            let rest = input.split_off(length);
            return Some(std::mem::replace(input, rest));
        }
        let mut part = [0; 4096];
        let count = stream
            .read(&mut part)
            .await
            .ok()
            .filter(|count| *count > 0)?;
        input.push_str(&String::from_utf8_lossy(&part[..count]));
    }
}

fn length(input: &str) -> Option<usize> {
    let head = input.find("\r\n\r\n")? + 4;
    let field = |name: &str| field(&input[..head], name);
    if field("transfer-encoding").is_some() {
        return input[head..].find("0\r\n\r\n").map(|end| head + end + 5);
    }
    let body = field("content-length").map_or(0, |it| it.parse().expect("a number"));
    (input.len() >= head + body).then_some(head + body)
}

/// Sends what the path asks for; whether the connection goes on.
async fn answer(
    stream: &mut TcpStream,
    path: &str,
    message: &str,
    mut events: watch::Receiver<Vec<String>>,
) -> bool {
    let plain = |status: &str, more: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n{body}",
            body.len()
        )
    };
    let last = path.rsplit('/').next().unwrap_or_default();
    let (text, goes_on) = match last {
        "hang" => {
            let mut rest = [0; 64];
            let _ = stream.read(&mut rest).await;
            return false;
        }
        "break" => return false,
        "half" => (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart".to_owned(),
            false,
        ),
        "unwell" => (plain("503 Unwell", "", "unwell"), true),
        "created" => (
            plain(
                "201 Created",
                "x-flavour: salt\r\nlocation: /x/1\r\n",
                "made",
            ),
            true,
        ),
        "cookies" => (
            plain(
                "200 OK",
                "set-cookie: customerToken=stolen; Path=/\r\nset-cookie: =customerToken=stolen\r\nset-cookie: theme=dark\r\nset-cookie: cxDevice=x\r\nconnection: x-private\r\nx-private: 1\r\n",
                "",
            ),
            true,
        ),
        "switch" => {
            let head =
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            if stream.write_all(head.as_bytes()).await.is_ok() {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
            return false;
        }
        "events" => {
            stream_events(stream, &mut events).await;
            return false;
        }
        _ => (
            plain("200 OK", "content-type: text/plain\r\n", message),
            true,
        ),
    };
    stream.write_all(text.as_bytes()).await.is_ok() && goes_on
}

async fn stream_events(stream: &mut TcpStream, events: &mut watch::Receiver<Vec<String>>) {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut sent = 0;
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    loop {
        let fresh = events.borrow_and_update()[sent..].to_vec();
        for event in fresh {
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
            sent += 1;
        }
        if events.changed().await.is_err() {
            return;
        }
    }
}

/// The edge's sections as they would stand in a file.
pub fn edge(text: &str) -> cargoextra::config::edge::Edge {
    let raw: RawEdge = toml::from_str(text).expect("TOML");
    raw.validate().expect("a valid edge")
}

/// Puts `text` in place of the edge.
pub fn with_edge(text: String) -> impl FnOnce(&mut Config) {
    move |config| config.edge = edge(&text)
}

/// A route below `/x`, with further keys.
pub fn route(downstream: &Downstream, more: &str) -> String {
    let url = downstream.url();
    format!("[[gateway.routes]]\nname = \"x\"\nprefix = \"/x\"\nupstreams = [\"{url}\"]\n{more}\n")
}

/// The value of a field in a head.
pub fn field<'m>(message: &'m str, name: &str) -> Option<&'m str> {
    let head = message.split("\r\n\r\n").next().unwrap_or_default();
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Sends bytes and reads until the server closes.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // The server may have answered and closed before all was sent.
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

/// Everything until the server closes.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.unwrap_or_else(|_| panic!("not closed: {}", String::from_utf8_lossy(&answer)));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until the text so far ends with `end`.
pub async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
        let byte = byte.unwrap_or_else(|_| panic!("no {end:?} in {text:?}"));
        text.push(char::from(
            byte.unwrap_or_else(|error| panic!("{error} after {text:?}")),
        ));
    }
    text
}

/// The statuses of answers, in their order.
pub fn statuses(answers: &str) -> Vec<u16> {
    let starts = answers.match_indices("HTTP/1.");
    // Not the end of a request line that was echoed.
    starts
        .filter_map(|(at, start)| answers[at + start.len() + 1..].strip_prefix(' '))
        .map(|rest| rest[..3].parse().expect("a status"))
        .collect()
}
