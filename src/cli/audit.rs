//! `audit`: what happened, newest first.

use serde_json::{Value, json};

use crate::accounts::email::canonical_or_nobody;
use crate::app::App;
use crate::clock::rfc3339;
use crate::error::Error;
use crate::store::accounts;
use crate::store::audit::{self, Entry};

pub async fn run(app: &App, email: Option<&str>, limit: i64, as_json: bool) -> Result<(), String> {
    let entries = entries(app, email, limit)
        .await
        .map_err(|error| error.to_string())?;
    let entries = entries.ok_or("there is no account with this address")?;
    if as_json {
        let list: Vec<Value> = entries.iter().map(json_of).collect();
        return super::print_json(&Value::Array(list));
    }
    for entry in entries {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        println!(
            "{}  {:<17}  {:<8}  {:<26}  {}  {}  {}",
            rfc3339(entry.at),
            entry.event,
            entry.actor,
            shown(&entry.account_id),
            shown(&entry.network),
            shown(&entry.request_id),
            shown(&entry.detail)
        );
    }
    Ok(())
}

async fn entries(app: &App, email: Option<&str>, limit: i64) -> Result<Option<Vec<Entry>>, Error> {
    let mut tx = app.db.read().await?;
    let account_id = match email {
        None => None,
        Some(email) => match accounts::find_by_email(&mut tx, &canonical_or_nobody(email)).await? {
            None => return Ok(None),
            Some(account) => Some(account.id),
        },
    };
    audit::list(&mut tx, account_id.as_deref(), limit)
        .await
        .map(Some)
}

fn json_of(entry: &Entry) -> Value {
    json!({
        "id": entry.id,
        "at": rfc3339(entry.at),
        "event": entry.event,
        "accountId": entry.account_id,
        "actor": entry.actor,
        "network": entry.network,
        "requestId": entry.request_id,
        "detail": entry.detail,
    })
}
