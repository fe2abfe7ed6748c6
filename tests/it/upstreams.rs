//! What is between us and a downstream service: TLS and HTTP/2 to a real nginx, kept connections, time-outs, health checks.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::app::{Database, TestApp};
use crate::downstream::{Downstream, PATIENCE, edge, rest, route, statuses, until, with_edge};

/// An nginx that demands a certificate of an authority of ours, and tells whose it saw.
struct Nginx {
    folder: tempfile::TempDir,
    port: u16,
}

/// A certificate for `name` and its key as PEM files in a folder, signed by an authority if there is one.
fn certificate(
    folder: &Path,
    name: &str,
    issuer: Option<&rcgen::Issuer<'_, rcgen::KeyPair>>,
) -> rcgen::KeyPair {
    let key = rcgen::KeyPair::generate().expect("a key");
    let parameters = parameters(name);
    let signed = match issuer {
        Some(issuer) => parameters.signed_by(&key, issuer),
        None => parameters.self_signed(&key),
    };
    let signed = signed.expect("a certificate");
    std::fs::write(folder.join(format!("{name}.pem")), signed.pem()).expect("written");
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("written");
    key
}

fn parameters(name: &str) -> rcgen::CertificateParams {
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a host name");
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let common = rcgen::DnType::CommonName;
    parameters.distinguished_name.push(common, name);
    if name.ends_with("authority") {
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    parameters
}

impl Nginx {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for authority in ["authority", "other-authority"] {
            let key = certificate(folder.path(), authority, None);
            let issuer = rcgen::Issuer::new(parameters(authority), key);
            let members: &[&str] = match authority {
                "authority" => &["service.internal", "gateway"],
                _ => &["stranger"],
            };
            for name in members {
                certificate(folder.path(), name, Some(&issuer));
            }
        }
        std::fs::write(folder.path().join("large"), vec![b'x'; 3_000_000]).expect("written");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let nginx = Self { folder, port };
        std::fs::write(nginx.path("nginx.conf"), nginx.configuration()).expect("written");
        // It goes to the background once it listens.
        nginx.run(&[]).await;
        nginx
    }

    fn configuration(&self) -> String {
        let folder = self.folder.path().display();
        let port = self.port;
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        format!(
            "{user} worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
            events {{ worker_connections 256; }}
            http {{
                access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
                server {{
                    listen 127.0.0.1:{port} ssl http2; root {folder};
                    ssl_certificate {folder}/service.internal.pem; ssl_certificate_key {folder}/service.internal.key;
                    ssl_client_certificate {folder}/authority.pem; ssl_verify_client on;
                    location /x {{ return 200 \"$ssl_client_s_dn $server_protocol $http_x_forwarded_for $http_host\"; }}
                    location /x/large {{ alias {folder}/large; }}
                }}
            }}"
        )
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    async fn run(&self, more: &[&str]) {
        let mut command = Command::new("nginx");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let configuration = self.path("nginx.conf");
        let log = self.path("error.log");
        command.args(["-c", &configuration, "-e", &log]).args(more);
        let status = command.status().await.expect("nginx is installed");
        assert!(
            status.success(),
            "{}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
    }

    /// A route to it.
    fn route(&self, protocol: &str, tls: &str) -> String {
        format!(
            "[[gateway.routes]]\nname = \"x\"\nprefix = \"/x\"\nupstreams = [\"https://127.0.0.1:{}\"]\nauth = \"none\"\n\
             retries = 0\nprotocol = \"{protocol}\"\ntls = {{ {tls} }}\n",
            self.port
        )
    }
}

#[tokio::test]
async fn tls_to_a_service_with_our_own_authority_and_certificate() {
    let nginx = Nginx::start().await;
    let (ca, other) = (
        nginx.path("authority.pem"),
        nginx.path("other-authority.pem"),
    );
    let shown = |name: &str| {
        let [certificate, key] = [".pem", ".key"].map(|end| nginx.path(&format!("{name}{end}")));
        format!("certificate_file = \"{certificate}\", key_file = \"{key}\"")
    };
    let ours = shown("gateway");
    let trusting = format!("ca_file = \"{ca}\", server_name = \"service.internal\"");
    let app = TestApp::with(Database::Sqlite, with_edge(String::new())).await;
    for (protocol, spoken) in [("http1", "HTTP/1.1"), ("h2", "HTTP/2.0")] {
        let reload = |tls: &str| app.app.reload_edge(&edge(&nginx.route(protocol, tls)));
        reload(&format!("{trusting}, {ours}"));
        let told = format!("CN=gateway {spoken} 127.0.0.1 127.0.0.1:{}", nginx.port);
        for _ in 0..3 {
            let reply = app.caller().get("/x").await;
            assert_eq!((reply.status, reply.text.as_str()), (200, told.as_str()));
        }
        let (status, large) = app.caller().send_raw("GET", "/x/large").await;
        assert_eq!((status, large.len()), (200, 3_000_000), "{protocol}");
        let posted = app
            .caller()
            .send("POST", "/x", Some("{}".repeat(100_000)))
            .await;
        assert_eq!((posted.status, posted.text.as_str()), (200, told.as_str()));

        // It wants a certificate, and one of its own authority.
        reload(&trusting);
        assert_eq!(app.caller().get("/x").await.status, 400, "{protocol}");
        reload(&format!("{trusting}, {}", shown("stranger")));
        assert_eq!(app.caller().get("/x").await.status, 400, "{protocol}");
        // So do we: of the right authority, and for the right name.
        for wrong in [
            format!("ca_file = \"{other}\", server_name = \"service.internal\", {ours}"),
            format!("server_name = \"service.internal\", {ours}"),
            format!("ca_file = \"{ca}\", server_name = \"other.internal\", {ours}"),
            format!("ca_file = \"{ca}\", {ours}"),
        ] {
            reload(&wrong);
            let shown = app.caller().get("/x").await.shown();
            let unavailable =
                json!({ "message": "Unexpected Error", "code": "downstream_unavailable" });
            assert_eq!(shown, (500, unavailable), "{protocol}: {wrong}");
        }
    }
    nginx.run(&["-s", "stop"]).await;
}

#[tokio::test]
async fn a_client_that_takes_its_time_with_a_body_is_not_the_services_fault() {
    let downstream = Downstream::start().await;
    let text = route(&downstream, "auth = \"none\"\nresponse_timeout_ms = 40\n");
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let head = b"POST /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\n\r\n";
    stream.write_all(head).await.expect("sent");
    for byte in b"slowly" {
        // Longer than the service has for its answer. What comes back meanwhile would be a refusal.
        let mut early = [0];
        let pause = tokio::time::timeout(Duration::from_millis(60), stream.read(&mut early));
        assert!(pause.await.is_err(), "it waits for the rest");
        stream.write_all(&[*byte]).await.expect("sent");
    }
    let answer = rest(&mut stream).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    assert!(downstream.take()[0].ends_with("\r\n\r\nslowly"));
}

/// The pause of a client that sends its body in small steps.
async fn step() {
    let _ = tokio::time::timeout(Duration::from_millis(40), std::future::pending::<()>()).await;
}

#[tokio::test]
async fn a_route_may_bound_everything() {
    let downstream = Downstream::start().await;
    let text = route(
        &downstream,
        "auth = \"none\"\ntotal_timeout_ms = 300\nretries = 0",
    );
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    let timeout = json!({ "message": "Unexpected Error", "code": "downstream_timeout" });
    assert_eq!(app.caller().get("/x/hang").await.shown(), (500, timeout));
    // A stream that goes on and on ends, and does not look whole.
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream
        .write_all(b"GET /x/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("sent");
    downstream.push("data: 1\n\n");
    let answer = rest(&mut stream).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    assert!(answer.ends_with("data: 1\n\n\r\n"), "{answer}");
    // However many steps the request makes.
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let head = b"POST /x/hang HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head).await.expect("sent");
    let mut answer = Vec::new();
    let stepping = async {
        loop {
            let mut piece = [0; 512];
            tokio::select! {
                read = stream.read(&mut piece) => match read {
                    Ok(count @ 1..) => answer.extend_from_slice(&piece[..count]),
                    _ => return,
                },
                () = step() => {
                    let _ = stream.write_all(b"1\r\na\r\n").await;
                }
            }
        }
    };
    let stepped = tokio::time::timeout(Duration::from_secs(3), stepping).await;
    assert!(stepped.is_ok(), "total_timeout_ms holds");
    assert!(!answer.is_empty());
    // Nor can a client take longer with its body.
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nslow";
    stream.write_all(head).await.expect("sent");
    let answer = rest(&mut stream).await;
    assert_eq!(statuses(&answer), [408], "{answer}");
}

/// Answers at once and then reads on, as a service does that streams both ways.
async fn early(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n";
            let _ = stream.write_all(answer).await;
            while stream.read(&mut head).await.is_ok_and(|read| read > 0) {}
        });
    }
}

async fn app_before(address: std::net::SocketAddr, more: &str) -> TestApp {
    let text = format!(
        "[[gateway.routes]]\nname = \"x\"\nprefix = \"/x\"\nupstreams = [\"http://{address}\"]\nauth = \"none\"\n{more}\n"
    );
    TestApp::with(Database::Sqlite, with_edge(text)).await
}

const UPLOAD: &[u8] =
    b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";

#[tokio::test]
async fn uploads_that_break_off_behind_an_early_answer_open_no_breaker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let app = app_before(listener.local_addr().expect("an address"), "retries = 0").await;
    tokio::spawn(early(listener));
    for turn in 0..8 {
        let mut stream = TcpStream::connect(app.address).await.expect("it listens");
        stream.write_all(UPLOAD).await.expect("sent");
        let head = until(&mut stream, "early\r\n").await;
        assert_eq!(statuses(&head), [200], "turn {turn}");
        stream.write_all(b"ZZZ\r\n").await.expect("sent");
        rest(&mut stream).await;
    }
}

#[tokio::test]
async fn a_stream_closes_the_breaker_when_it_begins() {
    let downstream = Downstream::start().await;
    let text = route(&downstream, "auth = \"none\"\nretries = 0");
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    for _ in 0..5 {
        assert_eq!(app.caller().get("/x/unwell").await.status, 503);
    }
    assert_eq!(app.caller().get("/x").await.status, 500);
    app.advance(1_000);
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    let request = b"GET /x/events HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    assert_eq!(statuses(&until(&mut stream, "\r\n\r\n").await), [200]);
    // It goes on, and others are served beside it.
    for _ in 0..3 {
        assert_eq!(app.caller().get("/x").await.status, 200);
    }
}

#[tokio::test]
async fn no_network_can_hold_all_places_of_a_route() {
    let downstream = Downstream::start().await;
    let text = route(&downstream, "auth = \"none\"\nmax_connections = 4");
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(app.address).await.expect("it listens");
        let request = b"GET /x/events HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        assert_eq!(statuses(&until(&mut stream, "\r\n\r\n").await), [200]);
        held.push(stream);
    }
    let refused = app.caller().get("/x").await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    let limited = json!({ "message": "Too many requests", "code": "too_many_requests" });
    assert_eq!(refused.shown(), (429, limited));
    assert_eq!(app.caller().from("127.0.0.2").get("/x").await.status, 200);
}

#[tokio::test]
async fn a_route_may_try_more_than_once_again() {
    let downstream = Downstream::start().await;
    let dead: Vec<String> = (0..2)
        .map(|_| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            format!("\"http://{}\"", listener.local_addr().expect("an address"))
        })
        .collect();
    let text = format!(
        "[[gateway.routes]]\nname = \"x\"\nprefix = \"/x\"\nupstreams = [{}, \"{}\"]\nauth = \"none\"\nretries = 2\n",
        dead.join(", "),
        downstream.url()
    );
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    assert_eq!(app.caller().get("/x").await.status, 200);
}

/// Answers one request on each connection and closes it a moment later, though it did not say so.
async fn forgetful(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
        });
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_nobodys_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(forgetful(listener));
    let text = format!(
        "[[gateway.routes]]\nname = \"x\"\nprefix = \"/x\"\nupstreams = [\"http://{address}\"]\nauth = \"none\"\nretries = 0\n"
    );
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    for turn in 0..200 {
        let reply = app.caller().get("/x").await;
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (200, "ok"),
            "turn {turn}"
        );
    }
}

/// A service whose health is what the test says; everything else it answers with 200.
async fn with_health(
    listener: TcpListener,
    mut health: tokio::sync::watch::Receiver<u16>,
    asked: tokio::sync::mpsc::UnboundedSender<u16>,
) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = [0; 4096];
        let read = stream.read(&mut head).await.unwrap_or(0);
        let status = match head[..read].starts_with(b"GET /health ") {
            true => *health.borrow_and_update(),
            false => 200,
        };
        let answer =
            format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = asked.send(status);
    }
}

#[tokio::test]
async fn health_checks_take_an_upstream_out_and_bring_it_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (set, health) = tokio::sync::watch::channel(200);
    let (asked, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(with_health(listener, health, asked));
    let text = format!(
        "[[gateway.routes]]\nname = \"x\"\nprefix = \"/x\"\nupstreams = [\"http://{address}\"]\nauth = \"none\"\n\
         health = {{ path = \"/health\", fall = 2, rise = 2 }}\n"
    );
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    let loaded = app.app.edge.load_full();
    let settings = loaded.routes.all()[0]
        .settings()
        .health
        .clone()
        .expect("health checks");
    for (status, expected) in [(200, 200), (503, 200), (503, 500), (200, 500), (200, 200)] {
        set.send_replace(status);
        tokio::time::timeout(PATIENCE, loaded.upstreams[0].check_health(&settings))
            .await
            .expect("it ends by its own time-out");
        assert_eq!(heard.recv().await, Some(status));
        assert_eq!(app.caller().get("/x").await.status, expected);
        if expected == 200 {
            assert_eq!(heard.recv().await, Some(200));
        }
    }
}
