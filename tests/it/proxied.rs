//! The PROXY protocol on real sockets: whose connection it is, and that nobody else can say so.

use cargoextra::config::{ClientAddress, Config, Span};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::app::{Database, TestApp};
use crate::downstream::{Downstream, PATIENCE, field, route, until, with_edge};
use crate::http2::Http2;
use crate::tls::{certificate, connect_over, speaking};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn behind(edge: String) -> impl FnOnce(&mut Config) {
    move |config| {
        with_edge(edge)(config);
        config.server.client_address = ClientAddress::ProxyProtocol;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    }
}

async fn start() -> (TestApp, Downstream) {
    let downstream = Downstream::start().await;
    let edge = route(&downstream, "auth = \"none\"");
    (
        TestApp::with(Database::Sqlite, behind(edge)).await,
        downstream,
    )
}

async fn connect(app: &TestApp, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let from = format!("{from}:0").parse().expect("an address");
    socket.bind(from).expect("a loopback address");
    socket.connect(app.address).await.expect("it listens")
}

/// Version 2 for a client at 203.0.113.9, with `tlvs`.
fn v2(command: u8, tlvs: &[u8]) -> Vec<u8> {
    let addresses = [203, 0, 113, 9, 127, 0, 0, 1, 0x12, 0x34, 0, 80];
    let length = (addresses.len() + tlvs.len()) as u16;
    let parts = [
        SIGNATURE,
        &[command, 0x11],
        &length.to_be_bytes(),
        &addresses,
        tlvs,
    ];
    parts.concat()
}

/// Whom the downstream service is told about, or that the connection was closed without an answer.
async fn client(app: &TestApp, downstream: &Downstream, parts: &[&[u8]]) -> Option<String> {
    let mut stream = connect(app, "127.0.0.1").await;
    client_over(&mut stream, downstream, parts).await
}

async fn client_over(
    stream: &mut TcpStream,
    downstream: &Downstream,
    parts: &[&[u8]],
) -> Option<String> {
    for part in parts {
        // It may have been closed already.
        let _ = stream.write_all(part).await;
        let _ = stream.flush().await;
        tokio::task::yield_now().await;
    }
    let ask = b"GET /x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1\r\nForwarded: for=198.51.100.2\r\nX-Real-IP: 198.51.100.3\r\nConnection: close\r\n\r\n";
    let _ = stream.write_all(ask).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("answered or closed");
    let seen = downstream.take();
    assert_eq!(
        seen.len(),
        usize::from(answer.starts_with(b"HTTP/1.1 200")),
        "{seen:?}"
    );
    let seen = seen.first()?;
    assert_eq!(
        (field(seen, "forwarded"), field(seen, "x-real-ip")),
        (None, None)
    );
    field(seen, "x-forwarded-for").map(str::to_owned)
}

#[tokio::test]
async fn a04_the_client_is_whom_the_proxy_says_and_no_header() {
    let (app, downstream) = start().await;
    let tlv = [&[0x04, 0x02, 0x58][..], &[0; 600]].concat();
    let first = v2(0x21, &tlv);
    let (torn, rest) = first.split_at(20);
    for (name, parts, expected) in [
        (
            "v1",
            vec![b"PROXY TCP4 203.0.113.9 127.0.0.1 4660 80\r\n".as_slice()],
            "203.0.113.9",
        ),
        (
            "v1 in pieces",
            vec![b"PROXY TCP4 203.0.1", b"13.9 127.0.0.1 4660 80\r", b"\n"],
            "203.0.113.9",
        ),
        (
            "v1 of IPv6",
            vec![b"PROXY TCP6 2001:db8::9 ::1 4660 80\r\n"],
            "2001:db8::9",
        ),
        (
            "v1 mapped",
            vec![b"PROXY TCP6 ::ffff:203.0.113.9 ::1 4660 80\r\n"],
            "203.0.113.9",
        ),
        ("v1 unknown", vec![b"PROXY UNKNOWN\r\n"], "127.0.0.1"),
        ("v2", vec![&v2(0x21, &[])], "203.0.113.9"),
        ("v2 with a TLV, in pieces", vec![torn, rest], "203.0.113.9"),
        ("v2 local", vec![&v2(0x20, &[])], "127.0.0.1"),
    ] {
        let found = client(&app, &downstream, &parts).await;
        assert_eq!(found.as_deref(), Some(expected), "{name}");
    }
}

#[tokio::test]
async fn a04_a_bad_header_or_none_or_a_second_one_is_closed() {
    let (app, downstream) = start().await;
    let oversized = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff], &[0; 3000]].concat();
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'a'; 300]].concat();
    for (name, start) in [
        ("none", b"".as_slice()),
        (
            "a bad address",
            b"PROXY TCP4 203.0.113.999 127.0.0.1 1 80\r\n",
        ),
        (
            "a bare line feed",
            b"PROXY TCP4 203.0.113.9 127.0.0.1 1 80\n",
        ),
        ("an endless line", &endless),
        ("too long a binary one", &oversized),
        ("an unknown command", &v2(0x2f, &[])),
    ] {
        assert_eq!(client(&app, &downstream, &[start]).await, None, "{name}");
    }
    app.until_counted("cargoextra_connections_closed_total{reason=\"proxy_header\"} 6")
        .await;
    // A client's own header behind the proxy's is no HTTP.
    let twice =
        b"PROXY TCP4 203.0.113.9 127.0.0.1 1 80\r\nPROXY TCP4 198.51.100.1 127.0.0.1 1 80\r\n";
    assert_eq!(client(&app, &downstream, &[twice]).await, None);
}

#[tokio::test]
async fn a04_who_is_no_trusted_proxy_is_closed_whatever_it_sends() {
    let (app, downstream) = start().await;
    for header in [
        b"PROXY TCP4 203.0.113.9 127.0.0.1 1 80\r\n".as_slice(),
        b"",
        &v2(0x20, &[]),
    ] {
        let mut stream = connect(&app, "127.0.0.2").await;
        assert_eq!(client_over(&mut stream, &downstream, &[header]).await, None);
    }
    app.until_counted("cargoextra_connections_closed_total{reason=\"untrusted_proxy\"} 3")
        .await;
}

#[tokio::test]
async fn a11_a_header_that_does_not_come_is_cut_off() {
    let app = TestApp::with(Database::Sqlite, |config| {
        behind(String::new())(config);
        config.server.proxy_protocol_timeout = Span(150);
    })
    .await;
    for start in [b"".as_slice(), b"PROXY TCP4 203.0", &v2(0x21, &[])[..20]] {
        let mut stream = connect(&app, "127.0.0.1").await;
        stream.write_all(start).await.expect("it reads");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        let _ = read.expect("it is closed");
        assert_eq!(answer, b"");
    }
    app.until_counted("cargoextra_connections_closed_total{reason=\"proxy_header\"} 3")
        .await;
}

#[tokio::test]
async fn connections_are_counted_for_the_client_and_not_for_the_proxy() {
    let app = TestApp::with(Database::Sqlite, |config| {
        behind(String::new())(config);
        config.server.max_connections_per_network = 1;
    })
    .await;
    let begin = async |client: &str| {
        let mut stream = connect(&app, "127.0.0.1").await;
        let text = format!(
            "PROXY TCP4 {client} 127.0.0.1 1 80\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/8.5.0\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await.expect("it reads");
        stream
    };
    let mut first = begin("203.0.113.1").await;
    assert!(until(&mut first, "}").await.starts_with("HTTP/1.1 200"));
    let mut other = begin("203.0.113.2").await;
    assert!(until(&mut other, "}").await.starts_with("HTTP/1.1 200"));
    let mut again = begin("203.0.113.1").await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, again.read_to_end(&mut answer)).await;
    let _ = read.expect("it is closed");
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn it_comes_before_tls_and_before_http2() {
    let folder = tempfile::tempdir().expect("a folder");
    let localhost = certificate(folder.path(), "localhost", &["localhost"], 2030);
    let downstream = Downstream::start().await;
    let edge = route(&downstream, "auth = \"none\"");
    let app = TestApp::with(Database::Sqlite, |config| {
        behind(edge)(config);
        speaking(vec![localhost.files.clone()])(config);
    })
    .await;
    let header = v2(0x21, &[]);
    let mut stream = TcpStream::connect(app.tls_address.expect("it speaks TLS"))
        .await
        .expect("it listens");
    stream.write_all(&header).await.expect("it reads");
    let stream = connect_over(stream, "localhost", &[&localhost.der], &["h2"]).await;
    let client = Http2::over(stream.expect("a handshake")).await;
    assert_eq!(client.get("/x").await.status, 200);
    let mut stream = TcpStream::connect(app.address).await.expect("it listens");
    stream.write_all(&header).await.expect("it reads");
    assert_eq!(Http2::over(stream).await.get("/x").await.status, 200);
    for seen in downstream.take() {
        assert_eq!(field(&seen, "x-forwarded-for"), Some("203.0.113.9"));
    }
}
