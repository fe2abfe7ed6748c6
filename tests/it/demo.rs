//! `demo`: an account, a service behind the gateway, and the calls to try.

use serde_json::json;

use crate::app::Database;
use crate::process::{Installation, free_port};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_has_an_account_and_a_service_that_is_told_who_asks() {
    let installed = Installation::new(Database::Sqlite).await;
    let ports = (free_port(), free_port());
    let mut demo = installed
        .serve_at(ports, &["demo"])
        .await
        .expect("it serves");
    let password = demo.prints("password").await;
    let anybody = demo.public.get("/api/v1/shipment").await;
    assert_eq!(anybody.status, 200, "{}", anybody.text);
    assert_eq!(anybody.body()["message"], "Your shipments");
    assert_eq!(
        anybody.body()["toldByTheGateway"].get("x-account-email"),
        None
    );
    let body = json!({ "email": "ada@example.com", "password": password });
    let login = demo.public.post("login", body).await;
    assert_eq!(login.status, 200, "{}", login.text);
    let token = login.body()["token"].as_str().expect("a token").to_owned();
    let ada = demo
        .public
        .clone()
        .header("authorization", &format!("Bearer {token}"));
    let told = ada.get("/api/v1/shipment/4711").await.body();
    assert_eq!(told["shipment"]["id"], "4711");
    assert_eq!(
        told["toldByTheGateway"]["x-account-email"],
        "ada@example.com"
    );
    let stream = demo.public.get("/api/v1/shipment/4711/positions").await;
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.text.matches("event: position").count(), 4);
    assert_eq!(demo.public.get("/.env").await.status, 403);
    assert!(demo.stop().await);
}
