//! R rows: recovery itself.

use serde_json::json;

use crate::app::{NEW_PASSWORD, TestApp, on_both};

on_both! {
    /// fifty parallel resets after one confirm.
    async fn r05_one_of_fifty_parallel_resets_wins(database) {
        let app = TestApp::start(database).await;
        app.account("ada@example.com").await;
        let code = app.forgot("ada@example.com").await;
        let grant = app.confirm(&code).await;
        let passwords: Vec<String> = (0..50).map(|n| format!("{NEW_PASSWORD}-{n}")).collect();
        let calls = passwords.iter().map(|password| {
            let caller = app.caller();
            let body = json!({ "email": "ada@example.com", "password": password, "resetGrant": grant });
            async move { caller.post("password-reset", body).await }
        });
        let replies = futures_util::future::join_all(calls).await;
        let won: Vec<usize> = (0..50).filter(|n| replies[*n].status == 200).collect();
        assert_eq!(won.len(), 1, "exactly one 200");
        for lost in (0..50).filter(|n| *n != won[0]) {
            assert_eq!(replies[lost].shown(), (400, json!({ "message": "Invalid Request", "code": "invalid_request" })));
        }
        assert!(app.signs_in("ada@example.com", &passwords[won[0]]).await);
        assert_eq!(app.count("select count(*) as n from outbox where kind = 'password_changed'").await, 1);
        assert_eq!(app.count("select count(*) as n from audit where event = 'password_reset'").await, 1);
    }
}
