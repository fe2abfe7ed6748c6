//! One product for one test: real sockets, a real database of its own, a clock that the test moves, seeded randomness, captured mail.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use cargoextra::app::App;
use cargoextra::cli::serve::worker;
use cargoextra::clock::Clock;
use cargoextra::config::Config;
use cargoextra::mail::transport::Captured;
use cargoextra::random::Random;
use cargoextra::web::Front;
use cargoextra::web::server::{Bounds, serve};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Monday, 23 November 2026, 12:00 UTC.
pub const START: i64 = 1_795_435_200_000;
pub const MINUTE: i64 = 60_000;
pub const PASSWORD: &str = "correct horse battery";
pub const NEW_PASSWORD: &str = "NewSecurePass123";

/// Makes a test of each function, once on SQLite and once on PostgreSQL.
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($database:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            async fn run($database: $crate::app::Database) $body
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() { run($crate::app::Database::Sqlite).await; }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() { run($crate::app::Database::Postgres).await; }
        }
    )*};
}
pub(crate) use on_both;

#[derive(Clone, Copy, Debug)]
pub enum Database {
    Sqlite,
    Postgres,
}

pub struct TestApp {
    pub app: Arc<App>,
    pub address: SocketAddr,
    /// Where it speaks TLS, if `server.tls.listen` names any address.
    pub tls_address: Option<SocketAddr>,
    pub folder: tempfile::TempDir,
    stop: watch::Sender<bool>,
    serving: JoinSet<()>,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

/// A caller: where from, with what.
#[derive(Clone, Debug)]
pub struct Caller {
    target: SocketAddr,
    from: IpAddr,
    headers: Vec<(String, String)>,
}

impl TestApp {
    pub async fn start(database: Database) -> Self {
        Self::with(database, |_| {}).await
    }

    pub async fn with(database: Database, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = Self::config(database, &folder, change).await;
        Self::build(config, folder).await
    }

    /// A second process of the same installation: same store, same keys.
    pub async fn again(&self) -> Self {
        self.again_with(|_| {}).await
    }

    /// A second process with a changed configuration.
    pub async fn again_with(&self, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = self.app.config.clone();
        // The limits have tests of their own; here a test may call as often as it likes.
        config.edge.limits.enabled = false;
        change(&mut config);
        Self::build(config, folder).await
    }

    pub async fn config(
        database: Database,
        folder: &tempfile::TempDir,
        change: impl FnOnce(&mut Config),
    ) -> Config {
        let mut config = Config::load(None, std::iter::empty()).expect("the default is valid");
        config.server.data_dir = folder.path().to_owned();
        config.database.url = match database {
            Database::Sqlite => format!("sqlite://{}", folder.path().join("test.db").display()),
            Database::Postgres => fresh_postgres().await,
        }
        .into();
        // Cheap hashes: what is tested is what surrounds them.
        config.hash.memory_kib = 64;
        config.hash.iterations = 1;
        config.hash.threads = 2;
        // The limits have tests of their own; here a test may call as often as it likes.
        config.edge.limits.enabled = false;
        config.telemetry.access_log = "off".to_owned();
        config.telemetry.access_log_flush = cargoextra::config::Span(0);
        change(&mut config);
        config
    }

    async fn build(config: Config, folder: tempfile::TempDir) -> Self {
        let (clock, random) = (Clock::manual(START), Random::system());
        let app = Arc::new(
            App::build(config, clock, random)
                .await
                .expect("the app builds"),
        );
        let front = Arc::new(Front::new(app.clone()));
        let (stop, stopped) = watch::channel(false);
        let bounds = Bounds::new(&app);
        let mut serving = JoinSet::new();
        let mut listen = async |bounds: Bounds| {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it has an address");
            let front = front.clone();
            let answer = move |connection, request| {
                let front = front.clone();
                async move { front.answer(connection, request).await }
            };
            serving.spawn(serve(listener, bounds, stopped.clone(), answer));
            address
        };
        let address = listen(bounds.clone()).await;
        let tls_address = match app.config.server.tls.listen.is_empty() {
            true => None,
            false => Some(listen(bounds.over_tls()).await),
        };
        Self {
            app,
            address,
            tls_address,
            folder,
            stop,
            serving,
        }
    }

    /// Tells it to stop, as SIGTERM does.
    pub fn stop(&self) {
        let _ = self.stop.send(true);
    }

    /// Waits until it has stopped.
    pub async fn stopped(&mut self) {
        while self.serving.join_next().await.is_some() {}
    }

    /// Waits until the metrics hold a line.
    pub async fn until_counted(&self, line: &str) {
        let counted = async {
            while !self.app.scrape().lines().any(|found| found == line) {
                tokio::task::yield_now().await;
            }
        };
        let patient = tokio::time::timeout(crate::downstream::PATIENCE, counted).await;
        patient.unwrap_or_else(|_| panic!("no {line} in {}", self.app.scrape()));
    }

    /// A caller at 127.0.0.1 with curl's name.
    pub fn caller(&self) -> Caller {
        let agent = ("user-agent".to_owned(), "curl/8.5.0".to_owned());
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Caller {
            target: self.address,
            from,
            headers: vec![agent],
        }
    }

    pub async fn post(&self, call: &str, body: Value) -> Reply {
        self.caller().post(call, body).await
    }

    pub fn advance(&self, millis: i64) {
        self.app.clock.advance(millis);
    }

    /// Works the mail queue off, as the worker would.
    pub async fn deliver(&self) {
        let worker = worker(&self.app);
        while worker.step().await.expect("the queue can be read") > 0 {}
    }

    /// Captured mails to an address, newest first.
    pub fn mails(&self, to: &str) -> Vec<Captured> {
        let mut mails = self.app.mail.mailroom().expect("mail is captured").list();
        mails.retain(|mail| mail.to.eq_ignore_ascii_case(to));
        mails
    }

    /// Delivers, and takes the code out of the newest mail with a code to an address.
    pub async fn code(&self, to: &str) -> String {
        self.deliver().await;
        let mails = self.mails(to);
        let with_code = mails.iter().find(|mail| mail.subject.contains("code"));
        code_in(&with_code.expect("a mail with a code").text)
    }

    /// A verified account.
    pub async fn account(&self, email: &str) {
        let registered = self
            .post("register", json!({ "email": email, "password": PASSWORD }))
            .await;
        assert_eq!(registered.status, 201, "{}", registered.text);
        let code = self.code(email).await;
        let verified = self
            .post("verify-email", json!({ "verifyToken": code }))
            .await;
        assert_eq!(verified.status, 200, "{}", verified.text);
    }

    /// Asks for a code and takes it from the mail.
    pub async fn forgot(&self, email: &str) -> String {
        let asked = self
            .post("forgot-password", json!({ "email": email }))
            .await;
        assert_eq!(asked.status, 200, "{}", asked.text);
        self.code(email).await
    }

    /// Confirms a code; the grant.
    pub async fn confirm(&self, code: &str) -> String {
        let confirmed = self
            .post("confirm-otp-reset", json!({ "resetToken": code }))
            .await;
        assert_eq!(confirmed.status, 200, "{}", confirmed.text);
        confirmed.body()["resetGrant"]
            .as_str()
            .expect("a grant")
            .to_owned()
    }

    /// The status of a confirm.
    pub async fn confirm_status(&self, code: &str) -> u16 {
        let body = json!({ "resetToken": code });
        self.post("confirm-otp-reset", body).await.status
    }

    pub async fn login(&self, email: &str, password: &str) -> Reply {
        self.post("login", json!({ "email": email, "password": password }))
            .await
    }

    /// Whether this password signs in.
    pub async fn signs_in(&self, email: &str, password: &str) -> bool {
        let reply = self.login(email, password).await;
        assert!([200, 401].contains(&reply.status), "{}", reply.text);
        reply.status == 200
    }

    /// The one number that a query gives.
    pub async fn count(&self, sql: &'static str) -> i64 {
        let mut tx = self.app.db.read().await.expect("a transaction");
        tx.one(sql, &[])
            .await
            .expect("a row")
            .get("n")
            .expect("a number named n")
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

impl Caller {
    /// A caller of a port of this machine, with curl's name, at the address that the port's process thinks it has.
    pub fn to(port: u16) -> Self {
        Self {
            target: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            from: IpAddr::V4(Ipv4Addr::LOCALHOST),
            headers: vec![
                ("host".to_owned(), format!("127.0.0.1:{port}")),
                ("user-agent".to_owned(), "curl/8.5.0".to_owned()),
            ],
        }
    }

    /// Whom it calls.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Calls from another address of the loopback network: each is a network of its own.
    pub fn from(mut self, address: &str) -> Self {
        self.from = address.parse().expect("an address");
        self
    }

    /// Calls another process.
    pub fn at(mut self, target: SocketAddr) -> Self {
        self.target = target;
        self
    }

    /// Sets a header; an empty value takes it away.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        if !value.is_empty() {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Adds a header line, even one that is there already.
    pub fn also(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `POST /api/v1/user/CALL` with JSON.
    pub async fn post(&self, call: &str, body: Value) -> Reply {
        self.send(
            "POST",
            &format!("/api/v1/user/{call}"),
            Some(body.to_string()),
        )
        .await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, None).await
    }

    /// Sends anything; JSON is the content type unless the caller has one.
    pub async fn send(&self, method: &str, path: &str, body: Option<String>) -> Reply {
        self.send_bytes(method, path, body.map(String::into_bytes))
            .await
    }

    pub async fn send_bytes(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Reply {
        let typed = body.is_some();
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let (status, headers, bytes) = self.exchange(method, path, typed, body).await;
        Reply {
            status,
            headers,
            text: String::from_utf8(bytes.to_vec()).expect("UTF-8"),
        }
    }

    /// Sends a body in one chunk without saying how long it is.
    pub async fn send_chunked(&self, method: &str, path: &str, body: Vec<u8>) -> Reply {
        let frame = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(
            hyper::body::Frame::data(Bytes::from(body)),
        )]);
        let body = http_body_util::StreamBody::new(frame);
        let (status, headers, bytes) = self.exchange(method, path, true, body).await;
        Reply {
            status,
            headers,
            text: String::from_utf8(bytes.to_vec()).expect("UTF-8"),
        }
    }

    /// For answers that are no text.
    pub async fn send_raw(&self, method: &str, path: &str) -> (u16, Bytes) {
        let (status, _, bytes) = self.exchange(method, path, false, Full::default()).await;
        (status, bytes)
    }

    async fn exchange<B>(
        &self,
        method: &str,
        path: &str,
        typed: bool,
        body: B,
    ) -> (u16, http::HeaderMap, Bytes)
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::new(self.from, 0))
            .expect("a loopback address");
        let stream = socket
            .connect(self.target)
            .await
            .expect("the server listens");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP");
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(method).uri(path);
        let named = self.headers.iter().any(|(name, _)| name == "host");
        if !named {
            request = request.header("host", "localhost:9000");
        }
        let named = self.headers.iter().any(|(name, _)| name == "content-type");
        if typed && !named {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(body).expect("a request");
        let (parts, body) = sender
            .send_request(request)
            .await
            .expect("an answer")
            .into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        (parts.status.as_u16(), parts.headers, bytes)
    }
}

impl Reply {
    pub fn body(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Status and body, without the request's id, which must be there in errors and in the header.
    pub fn shown(&self) -> (u16, Value) {
        let mut body = self.body();
        let fields = body.as_object_mut().expect("an object");
        if self.status >= 400 {
            let id = fields
                .shift_remove("requestId")
                .expect("an error names its request");
            assert_eq!(id.as_str(), self.headers["x-request-id"].to_str().ok());
        }
        (self.status, body)
    }

    /// The value of a cookie that was set.
    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookie_lines().into_iter().find_map(|line| {
            let (found, rest) = line.split_once('=')?;
            (found == name).then(|| rest.split(';').next().unwrap_or_default().to_owned())
        })
    }

    pub fn cookie_lines(&self) -> Vec<String> {
        let lines = self.headers.get_all("set-cookie").iter();
        lines
            .map(|line| line.to_str().expect("text").to_owned())
            .collect()
    }

    /// Header names with their values, without those that differ from call to call.
    pub fn stable_headers(&self) -> BTreeMap<String, String> {
        let changing = ["x-request-id", "date", "set-cookie"];
        let pairs = self
            .headers
            .iter()
            .filter(|(name, _)| !changing.contains(&name.as_str()));
        pairs
            .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
            .collect()
    }
}

/// The code in the text of a mail.
pub fn code_in(text: &str) -> String {
    let is_code = |word: &&str| {
        word.len() == 11
            && word.as_bytes()[5] == b'-'
            && word
                .bytes()
                .all(|b| b == b'-' || b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    text.split_whitespace()
        .find(is_code)
        .expect("a code")
        .to_owned()
}

/// A database of its own in the server that `scripts/test` started.
#[expect(
    clippy::disallowed_methods,
    reason = "how scripts/test tells the tests where PostgreSQL is"
)]
pub async fn fresh_postgres() -> String {
    let server = std::env::var("CARGOEXTRA_TEST_POSTGRES").expect(
        "CARGOEXTRA_TEST_POSTGRES names the PostgreSQL to test with; ./scripts/test starts one",
    );
    let name = format!("t{}", Random::system().id(0));
    let made = tokio::process::Command::new("psql")
        .args([&server, "-qc", &format!("create database {name}")])
        .status()
        .await;
    assert!(
        made.is_ok_and(|status| status.success()),
        "psql makes a database"
    );
    let (base, _) = server.rsplit_once('/').expect("postgres://…/NAME");
    format!("{base}/{name}")
}
