//! gRPC from end to end: Google's own client and service, with us between them over HTTP/2 on both sides.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::app::{Database, TestApp};
use crate::downstream::{PATIENCE, with_edge};

/// `tests/grpc/echo.py`, in a Python that `scripts/test` has prepared.
fn echo(arguments: &[&str]) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "how scripts/test tells the tests where Python is"
    )]
    let python = std::env::var("CARGOEXTRA_TEST_PYTHON")
        .expect("CARGOEXTRA_TEST_PYTHON names a Python with grpcio; ./scripts/test installs one");
    let mut command = Command::new(python);
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc/echo.py"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A running service and its port.
async fn service() -> (Child, u16) {
    let mut child = echo(&["serve"]).spawn().expect("Python starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    let line = line.expect("it starts").expect("text").expect("a line");
    (child, line.parse().expect("a port"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_and_service_do_not_notice_us() {
    let (_service, port) = service().await;
    let text = format!(
        "[[gateway.routes]]\nname = \"echo\"\nprefix = \"/echo.Echo\"\nupstreams = [\"http://127.0.0.1:{port}\"]\n\
         auth = \"none\"\nprotocol = \"h2c\"\n"
    );
    let app = TestApp::with(Database::Sqlite, with_edge(text)).await;
    let gateway = app.address.port().to_string();
    let output = echo(&["call", &gateway]).output().await.expect("it runs");
    let said = String::from_utf8(output.stdout).expect("text");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let expected = [
        json!({ "say": "hello", "traced": true }),
        json!({ "large": true }),
        json!({ "count": [0, 1, 2, 3, 4] }),
        json!({ "add_up": ["first", "42"] }),
        json!({ "fail": ["NOT_FOUND", "no such thing"] }),
    ];
    assert_eq!(lines, expected);
}
