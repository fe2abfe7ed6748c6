//! `outbox …`: why a mail did not arrive, and what to do about it.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::app::App;
use crate::clock::rfc3339;
use crate::store::outbox::{self, Queued};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The newest mails: waiting, sent, dropped, dead
    List {
        #[arg(long, default_value_t = 100)]
        limit: i64,
    },
    /// Send a waiting or dead mail now
    Retry { id: String },
    /// Take a mail out of the queue
    Drop { id: String },
}

pub async fn run(app: &App, command: Command, as_json: bool) -> Result<(), String> {
    work(app, command, as_json)
        .await
        .map_err(|error| error.to_string())?
}

async fn work(
    app: &App,
    command: Command,
    as_json: bool,
) -> Result<Result<(), String>, crate::error::Error> {
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let done = match &command {
        Command::List { limit } => {
            return Ok(print(&outbox::list(&mut tx, *limit).await?, as_json));
        }
        Command::Retry { id } => outbox::retry_now(&mut tx, id, now).await?,
        Command::Drop { id } => outbox::drop_unsent(&mut tx, id, now).await?,
    };
    tx.commit().await?;
    Ok(if done {
        Ok(())
    } else {
        Err("no waiting or dead mail has this id".to_owned())
    })
}

fn print(list: &[Queued], as_json: bool) -> Result<(), String> {
    if as_json {
        let list: Vec<Value> = list.iter().map(json_of).collect();
        return super::print_json(&Value::Array(list));
    }
    for mail in list {
        let (state, at) = state(mail);
        let reason = mail.reason.as_deref().unwrap_or_default();
        println!(
            "{}  {state:<8}  {}  {:<17}  {}  {reason}",
            mail.id,
            rfc3339(at),
            mail.kind,
            masked(&mail.recipient)
        );
    }
    Ok(())
}

fn state(mail: &Queued) -> (&'static str, i64) {
    match (mail.sent_at, mail.dropped_at, mail.dead_at) {
        (Some(at), _, _) => ("sent", at),
        (_, Some(at), _) => ("dropped", at),
        (_, _, Some(at)) => ("dead", at),
        _ => ("waiting", mail.due_at),
    }
}

/// `a…@example.com`: enough to recognise, too little to collect.
fn masked(address: &str) -> String {
    match address.split_once('@') {
        Some((local, domain)) => format!("{}…@{domain}", local.chars().next().unwrap_or('?')),
        None => "(forgotten)".to_owned(),
    }
}

fn json_of(mail: &Queued) -> Value {
    let (state, at) = state(mail);
    json!({
        "id": mail.id,
        "kind": mail.kind,
        "to": masked(&mail.recipient),
        "state": state,
        "at": rfc3339(at),
        "causedAt": rfc3339(mail.caused_at),
        "attempts": mail.attempts,
        "reason": mail.reason,
    })
}
