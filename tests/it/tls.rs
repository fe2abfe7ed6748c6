//! TLS in front: which certificate, which protocol, a reload, and what a browser is told. By clients of rustls, and by curl and openssl.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cargoextra::config::{CertificateFiles, Config, Span};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::app::{Database, TestApp};
use crate::downstream::{PATIENCE, statuses, until};
use crate::http2::Http2;
use crate::process::Installation;

/// A certificate that signs itself, in files and as its bytes.
pub struct Certificate {
    pub files: CertificateFiles,
    pub der: CertificateDer<'static>,
}

pub fn certificate(folder: &Path, file: &str, names: &[&str], until: i32) -> Certificate {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    let made = params.self_signed(&key).expect("a certificate");
    let write = |name: String, text: String| -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    Certificate {
        files: CertificateFiles {
            certificate: write(format!("{file}.pem"), made.pem()),
            key: write(format!("{file}.key"), key.serialize_pem()),
        },
        der: made.der().clone(),
    }
}

/// Speaks TLS with these certificates; the port is chosen by the test's product.
pub fn speaking(certificates: Vec<CertificateFiles>) -> impl FnOnce(&mut Config) {
    move |config| {
        config.server.tls.listen = vec!["127.0.0.1:0".parse().expect("an address")];
        config.server.tls.certificates = certificates;
    }
}

/// A connection that asks for `name` and trusts `roots`.
pub async fn connect(
    address: SocketAddr,
    name: &str,
    roots: &[&CertificateDer<'static>],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    connect_over(stream, name, roots, protocols).await
}

pub async fn connect_over(
    stream: TcpStream,
    name: &str,
    roots: &[&CertificateDer<'static>],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add((*root).clone()).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

fn shown(stream: &TlsStream<TcpStream>) -> &CertificateDer<'static> {
    let certificates = stream.get_ref().1.peer_certificates();
    &certificates.expect("the server shows one")[0]
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\n\r\n";
    stream.write_all(request).await.expect("it reads");
    let mut answer = String::new();
    while !answer.ends_with('}') {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
        answer.push(char::from(byte.expect("an answer").expect("a byte")));
    }
    answer
}

#[tokio::test]
async fn alpn_chooses_the_protocol_and_the_answers_are_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let localhost = certificate(folder.path(), "localhost", &["localhost"], 2030);
    let app = TestApp::with(Database::Sqlite, speaking(vec![localhost.files.clone()])).await;
    let address = app.tls_address.expect("it speaks TLS");
    for (offered, chosen) in [
        (&["h2", "http/1.1"] as &[&str], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = connect(address, "localhost", &[&localhost.der], offered).await;
        let mut stream = stream.expect("a handshake");
        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(protocol.as_deref(), chosen.map(str::as_bytes));
        if chosen == Some("h2") {
            let reply = Http2::over(stream).await.get("/healthz").await;
            assert_eq!(reply.shown(), (200, json!({ "message": "alive" })));
        } else {
            let answer = ask(&mut stream).await;
            assert_eq!(statuses(&answer), [200]);
            assert!(answer.ends_with("{\"message\":\"alive\"}"), "{answer}");
        }
    }
    // Who does not agree on HTTP/2 can't begin with it.
    let stream = connect(address, "localhost", &[&localhost.der], &[]).await;
    let mut stream = stream.expect("a handshake");
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("it reads");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(statuses(&String::from_utf8_lossy(&answer)), [505]);
}

#[tokio::test]
async fn each_name_gets_its_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = certificate(folder.path(), "first", &["localhost"], 2030);
    let second = certificate(folder.path(), "second", &["*.example.com"], 2030);
    let files = vec![first.files.clone(), second.files.clone()];
    let app = TestApp::with(Database::Sqlite, speaking(files)).await;
    let address = app.tls_address.expect("it speaks TLS");
    let roots = [&first.der, &second.der];
    for (name, expected) in [("localhost", &first), ("www.example.com", &second)] {
        let stream = connect(address, name, &roots, &[])
            .await
            .expect("a handshake");
        assert_eq!(shown(&stream), &expected.der, "{name}");
    }
    // Another name gets the first one, and its client will not have it.
    assert!(connect(address, "example.com", &roots, &[]).await.is_err());
    app.until_counted("cargoextra_connections_closed_total{reason=\"tls_handshake\"} 1")
        .await;
}

#[tokio::test]
async fn a11_a_handshake_that_does_not_come_is_cut_off_and_others_are_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let localhost = certificate(folder.path(), "localhost", &["localhost"], 2030);
    let app = TestApp::with(Database::Sqlite, |config| {
        speaking(vec![localhost.files.clone()])(config);
        config.server.header_timeout = Span(200);
    })
    .await;
    let address = app.tls_address.expect("it speaks TLS");
    let mut silent = TcpStream::connect(address).await.expect("it listens");
    let mut slow = TcpStream::connect(address).await.expect("it listens");
    slow.write_all(&[0x16, 0x03, 0x01]).await.expect("it reads");
    let mut plain = TcpStream::connect(address).await.expect("it listens");
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("it reads");
    for stream in [&mut silent, &mut slow, &mut plain] {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        let _ = read.expect("it is closed");
        assert!(!answer.starts_with(b"HTTP"));
    }
    app.until_counted("cargoextra_connections_closed_total{reason=\"tls_handshake\"} 3")
        .await;
    let stream = connect(address, "localhost", &[&localhost.der], &[]).await;
    ask(&mut stream.expect("a handshake")).await;
}

/// A reload is all or nothing: a certificate that can't be used leaves the guard as it was, too.
#[tokio::test]
async fn a_reload_changes_new_handshakes_and_no_connection_or_nothing_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = certificate(folder.path(), "old", &["localhost"], 2030);
    let new = certificate(folder.path(), "new", &["localhost"], 2030);
    let expired = certificate(folder.path(), "expired", &["localhost"], 2024);
    let app = TestApp::with(Database::Sqlite, speaking(vec![old.files.clone()])).await;
    let address = app.tls_address.expect("it speaks TLS");
    let roots = [&old.der, &new.der];
    let mut before = connect(address, "localhost", &roots, &[])
        .await
        .expect("a handshake");
    ask(&mut before).await;
    let closed =
        "[[guard.rules]]\nname = \"closed\"\naction = \"deny\"\nwhen = { path = \"/healthz\" }\n";
    let with = |files: CertificateFiles, edge: &str| {
        let mut config = app.app.config.clone();
        config.edge = crate::downstream::edge(edge);
        config.server.tls.certificates = vec![files];
        config
    };
    let missing = folder.path().join("missing.pem");
    let of = |certificate: &PathBuf, key: &PathBuf| CertificateFiles {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    for (files, what) in [
        (
            of(&missing, &old.files.key),
            "missing.pem: no certificate can be read",
        ),
        (
            of(&old.files.certificate, &missing),
            "missing.pem: no private key can be read",
        ),
        (
            of(&old.files.certificate, &new.files.key),
            "new.key: is not the key of",
        ),
        (expired.files.clone(), "expired.pem: has expired; renew it"),
    ] {
        let refused = app.app.reload(&with(files, closed)).expect_err(what);
        assert!(refused.contains(what), "{refused}");
        assert_eq!(app.caller().get("/healthz").await.status, 200, "{what}");
        let stream = connect(address, "localhost", &roots, &[])
            .await
            .expect("a handshake");
        assert_eq!(shown(&stream), &old.der, "{what}");
    }
    app.app
        .reload(&with(new.files.clone(), ""))
        .expect("it is good");
    let after = connect(address, "localhost", &roots, &[])
        .await
        .expect("a handshake");
    assert_eq!(shown(&after), &new.der);
    // Who was connected does not notice.
    assert_eq!(statuses(&ask(&mut before).await), [200]);
    app.app
        .reload(&with(new.files.clone(), closed))
        .expect("it is good");
    assert_eq!(statuses(&ask(&mut before).await), [403]);
}

fn https(config: &mut Config) {
    config.server.public_origin = "https://localhost:9443".to_owned();
}

#[tokio::test]
async fn the_origin_rule_holds_the_tls_origin_and_its_twins_for_ours() {
    let app = TestApp::with(Database::Sqlite, https).await;
    for (origin, status) in [
        ("https://localhost:9443", 404),
        ("https://127.0.0.1:9443", 404),
        ("https://[::1]:9443", 404),
        ("http://localhost:9443", 403),
        ("http://localhost:9000", 403),
        ("https://localhost", 403),
        ("https://localhost:443", 403),
        ("https://localhost.example:9443", 403),
        ("https://localhostx:9443", 403),
    ] {
        let caller = app.caller().header("origin", origin);
        let reply = caller
            .post("forgot-password", json!({ "email": "a@example.com" }))
            .await;
        assert_eq!(reply.status, status, "{origin}: {}", reply.text);
    }
    let usual = TestApp::with(Database::Sqlite, |config| {
        config.server.public_origin = "https://localhost".to_owned();
    })
    .await;
    for (origin, status) in [
        ("https://127.0.0.1", 404),
        ("https://127.0.0.1:443", 404),
        ("http://127.0.0.1", 403),
        ("http://127.0.0.1:443", 403),
        ("https://127.0.0.1x", 403),
    ] {
        let caller = usual.caller().header("origin", origin);
        let reply = caller
            .post("forgot-password", json!({ "email": "a@example.com" }))
            .await;
        assert_eq!(reply.status, status, "{origin}: {}", reply.text);
    }
}

#[tokio::test]
async fn browsers_are_told_what_each_answer_of_ours_may_do() {
    let downstream = crate::downstream::Downstream::start().await;
    let edge = crate::downstream::route(&downstream, "auth = \"none\"");
    let app = TestApp::with(Database::Sqlite, |config| {
        https(config);
        crate::downstream::with_edge(edge)(config);
    })
    .await;
    let strict = "default-src 'none'; frame-ancestors 'none'";
    for (path, policy) in [
        ("/healthz", strict),
        ("/nothing", strict),
        ("/x/break", strict),
        ("/api/v1/user/check", strict),
        ("/account/login", cargoextra_policy()),
        ("/docs/index.html", "default-src 'self'; "),
    ] {
        let reply = app.caller().get(path).await;
        let header = |name| reply.header(name).unwrap_or("none");
        assert_eq!(
            header("strict-transport-security"),
            "max-age=31536000",
            "{path}"
        );
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("x-frame-options"), "DENY", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(
            header("cross-origin-resource-policy"),
            "same-origin",
            "{path}"
        );
        assert!(
            header("content-security-policy").starts_with(policy),
            "{path}"
        );
    }
    // What a service answers is its own business.
    let forwarded = app.caller().get("/x").await;
    assert_eq!(forwarded.header("strict-transport-security"), None);
    assert_eq!(forwarded.header("content-security-policy"), None);
    // In clear, and where it is switched off, nothing is promised.
    let clear = app
        .again_with(|config| config.server.public_origin = "http://localhost:9000".to_owned())
        .await;
    assert_eq!(
        clear
            .caller()
            .get("/healthz")
            .await
            .header("strict-transport-security"),
        None
    );
    let off = app
        .again_with(|config| config.server.tls.hsts.clear())
        .await;
    assert_eq!(
        off.caller()
            .get("/account/login")
            .await
            .header("strict-transport-security"),
        None
    );
}

fn cargoextra_policy() -> &'static str {
    "default-src 'none'; style-src 'self'; "
}

/// An installation that speaks TLS on a port of its own, with the files of `certificate` and the key of `key`.
async fn installed(certificate: &Certificate, key: &Path) -> (Installation, u16) {
    // Below the ports that the system gives to clients, and another one for each process of a test.
    let port = 20_000 + u16::try_from(std::process::id() % 10_000).expect("it is small");
    let mut installed = Installation::new(Database::Sqlite).await;
    let pem = certificate.files.certificate.display();
    let files = format!(
        "[{{ certificate = \"{pem}\", key = \"{}\" }}]",
        key.display()
    );
    installed.set("server.tls.listen", &format!("127.0.0.1:{port}"));
    installed.set("server.tls.certificates", &files);
    let origin = format!("https://localhost:{port}");
    installed.set("server.public_origin", &origin);
    (installed, port)
}

#[tokio::test]
async fn what_is_wrong_with_the_certificates_stops_the_start_with_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let localhost = certificate(folder.path(), "localhost", &["localhost"], 2030);
    let other = certificate(folder.path(), "other", &["localhost"], 2030);
    let (mut installed, _) = installed(&localhost, &other.files.key).await;
    let refused = installed.run(&["serve"], "").await;
    let why = format!(
        "cargoextra: server.tls.certificates: {}: is not the key of {}; name the two that belong together\n",
        other.files.key.display(),
        localhost.files.certificate.display()
    );
    assert_eq!((refused.success, refused.err.as_str()), (false, &*why));
    installed.set("server.tls.certificates", "[]");
    let refused = installed.run(&["config", "check"], "").await;
    let why = "cargoextra: server.tls.certificates: name at least one {certificate, key} for the addresses of server.tls.listen\n";
    assert_eq!((refused.success, refused.err.as_str()), (false, why));
}

/// The real binary with clients that this project did not write.
#[tokio::test]
async fn curl_and_openssl_speak_with_the_binary() {
    let folder = tempfile::tempdir().expect("a folder");
    let localhost = certificate(folder.path(), "localhost", &["localhost"], 2030);
    let (installed, port) = installed(&localhost, &localhost.files.key).await;
    let running = installed.serve().await;
    let url = format!("https://localhost:{port}/healthz");
    let root = localhost.files.certificate.display().to_string();
    let shows = "%{http_version} %{http_code} %{ssl_verify_result}\n";
    let usual = [
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        shows,
        "--cacert",
        &root,
        &url,
    ];
    for (arguments, expected) in [
        (&["--http2"] as &[&str], "2 200 0\n"),
        (&["--http1.1"], "1.1 200 0\n"),
        (&["--tlsv1.2", "--tls-max", "1.2"], "2 200 0\n"),
        (&["--tlsv1.3"], "2 200 0\n"),
    ] {
        let out = output("curl", &[&usual, arguments].concat()).await;
        assert_eq!(out, expected, "{arguments:?}");
    }
    let target = format!("localhost:{port}");
    let weak = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    let old = [&["s_client", "-connect", &target], weak.as_slice()].concat();
    let out = output("openssl", &old).await;
    assert!(
        out.contains("alert") && out.contains("Cipher is (NONE)"),
        "{out}"
    );
    assert!(running.stop().await);
}

async fn output(program: &str, arguments: &[&str]) -> String {
    let done = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap_or_else(|error| panic!("{program}: {error}; scripts/setup installs it"));
    let text = [done.stdout, done.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Tickets: a second connection need not show its certificate again.
#[tokio::test]
async fn a_client_that_comes_back_resumes_its_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let localhost = certificate(folder.path(), "localhost", &["localhost"], 2030);
    let app = TestApp::with(Database::Sqlite, speaking(vec![localhost.files.clone()])).await;
    let address = app.tls_address.expect("it speaks TLS");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    store.add(localhost.der.clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(store)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let stream = TcpStream::connect(address).await.expect("it listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("a handshake");
        ask(&mut stream).await;
        kinds.push(stream.get_ref().1.handshake_kind());
    }
    use rustls::HandshakeKind::{Full, Resumed};
    assert_eq!(kinds, [Some(Full), Some(Resumed)]);
}

/// What a test of the plain listener reads; kept here so that the two look alike.
#[tokio::test]
async fn the_plain_listener_goes_on_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let localhost = certificate(folder.path(), "localhost", &["localhost"], 2030);
    let app = TestApp::with(Database::Sqlite, speaking(vec![localhost.files.clone()])).await;
    let reply: Value = app.caller().get("/healthz").await.body();
    assert_eq!(reply, json!({ "message": "alive" }));
    // A TLS hello on it is no HTTP.
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream
        .write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0, b'\n'])
        .await
        .expect("it reads");
    assert!(until(&mut stream, "\r\n").await.starts_with("HTTP/1.1 400"));
}
