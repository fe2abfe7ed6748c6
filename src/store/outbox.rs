//! Mails to be sent: a row in the transaction that causes them, taken by a worker later.

use super::db::{Row, Tx};
use super::values;
use crate::clock::Millis;
use crate::error::Error;

/// A mail in the queue.
#[derive(Clone, Debug)]
pub struct Queued {
    pub id: String,
    pub kind: String,
    pub recipient: String,
    pub flow_id: Option<String>,
    pub network: String,
    pub caused_at: Millis,
    pub due_at: Millis,
    pub attempts: i64,
    pub sent_at: Option<Millis>,
    pub dropped_at: Option<Millis>,
    pub dead_at: Option<Millis>,
    pub reason: Option<String>,
}

/// How full the queue is.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    pub waiting: i64,
    pub dead: i64,
    /// When the oldest waiting mail was caused.
    pub oldest: Option<Millis>,
}

impl Queued {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get("id")?,
            kind: row.get("kind")?,
            recipient: row.get("recipient")?,
            flow_id: row.get("flow_id")?,
            network: row.get("network")?,
            caused_at: row.get("caused_at")?,
            due_at: row.get("due_at")?,
            attempts: row.get("attempts")?,
            sent_at: row.get("sent_at")?,
            dropped_at: row.get("dropped_at")?,
            dead_at: row.get("dead_at")?,
            reason: row.get("reason")?,
        })
    }
}

/// Queues a mail, due at once. It is sent after the commit, never without it.
pub async fn queue(
    tx: &mut Tx,
    id: &str,
    kind: &str,
    recipient: &str,
    flow_id: Option<&str>,
    network: &str,
    now: Millis,
) -> Result<(), Error> {
    const SQL: &str =
        "insert into outbox (id, kind, recipient, flow_id, network, caused_at, due_at, attempts)
        values ($1, $2, $3, $4, $5, $6, $6, 0)";
    tx.execute(SQL, values![id, kind, recipient, flow_id, network, now])
        .await?;
    Ok(())
}

/// Ids of mails that are due and that nobody has claimed.
pub async fn due(tx: &mut Tx, now: Millis, limit: i64) -> Result<Vec<String>, Error> {
    const SQL: &str = "select id from outbox where due_at <= $1
            and sent_at is null and dropped_at is null and dead_at is null
            and (claimed_until is null or claimed_until <= $1)
        order by due_at, id limit $2";
    tx.all(SQL, values![now, limit])
        .await?
        .iter()
        .map(|row| row.get("id"))
        .collect()
}

/// Claims a mail until `until`. `None` if another worker was faster.
pub async fn claim(
    tx: &mut Tx,
    id: &str,
    worker: &str,
    now: Millis,
    until: Millis,
) -> Result<Option<Queued>, Error> {
    const SQL: &str = "update outbox set claimed_by = $2, claimed_until = $4, attempts = attempts + 1
        where id = $1 and due_at <= $3 and sent_at is null and dropped_at is null and dead_at is null
            and (claimed_until is null or claimed_until <= $3)
        returning *";
    let row = tx.first(SQL, values![id, worker, now, until]).await?;
    row.map(|row| Queued::from_row(&row)).transpose()
}

/// Handed over. False if the claim was lost meanwhile.
pub async fn mark_sent(tx: &mut Tx, id: &str, worker: &str, now: Millis) -> Result<bool, Error> {
    const SQL: &str = "update outbox set sent_at = $3, claimed_until = null, reason = null
        where id = $1 and claimed_by = $2 and sent_at is null";
    Ok(tx.execute(SQL, values![id, worker, now]).await? == 1)
}

/// Not to be sent after all; whom it was for is forgotten.
pub async fn drop_mail(
    tx: &mut Tx,
    id: &str,
    worker: &str,
    reason: &str,
    now: Millis,
) -> Result<bool, Error> {
    const SQL: &str =
        "update outbox set dropped_at = $4, reason = $3, recipient = '', claimed_until = null
        where id = $1 and claimed_by = $2 and sent_at is null";
    Ok(tx.execute(SQL, values![id, worker, reason, now]).await? == 1)
}

/// Failed; to be tried again at `due_at`.
pub async fn retry_later(
    tx: &mut Tx,
    id: &str,
    worker: &str,
    reason: &str,
    due_at: Millis,
) -> Result<bool, Error> {
    const SQL: &str = "update outbox set due_at = $4, reason = $3, claimed_until = null
        where id = $1 and claimed_by = $2 and sent_at is null";
    Ok(tx.execute(SQL, values![id, worker, reason, due_at]).await? == 1)
}

/// Failed for good: a dead letter.
pub async fn bury(
    tx: &mut Tx,
    id: &str,
    worker: &str,
    reason: &str,
    now: Millis,
) -> Result<bool, Error> {
    const SQL: &str = "update outbox set dead_at = $4, reason = $3, claimed_until = null
        where id = $1 and claimed_by = $2 and sent_at is null";
    Ok(tx.execute(SQL, values![id, worker, reason, now]).await? == 1)
}

/// Puts back what a worker claimed and has not sent (a graceful stop).
pub async fn release(tx: &mut Tx, worker: &str) -> Result<u64, Error> {
    const SQL: &str = "update outbox set claimed_by = null, claimed_until = null
        where claimed_by = $1 and sent_at is null and dropped_at is null and dead_at is null";
    tx.execute(SQL, values![worker]).await
}

/// Puts back every claim: on SQLite nobody else can be at work when a process starts.
pub async fn release_all(tx: &mut Tx) -> Result<u64, Error> {
    const SQL: &str = "update outbox set claimed_by = null, claimed_until = null
        where claimed_until is not null and sent_at is null";
    tx.execute(SQL, values![]).await
}

pub async fn depth(tx: &mut Tx) -> Result<Depth, Error> {
    const SQL: &str = "select count(case when dead_at is null then 1 end) as waiting,
            count(dead_at) as dead,
            min(case when dead_at is null then caused_at end) as oldest
        from outbox where sent_at is null and dropped_at is null";
    let row = tx.one(SQL, values![]).await?;
    Ok(Depth {
        waiting: row.get("waiting")?,
        dead: row.get("dead")?,
        oldest: row.get("oldest")?,
    })
}

/// Newest first, for the operator.
pub async fn list(tx: &mut Tx, limit: i64) -> Result<Vec<Queued>, Error> {
    const SQL: &str = "select * from outbox order by caused_at desc, id desc limit $1";
    tx.all(SQL, values![limit])
        .await?
        .iter()
        .map(Queued::from_row)
        .collect()
}

/// Makes a waiting or dead mail due now, by the operator's wish. False if there is none.
pub async fn retry_now(tx: &mut Tx, id: &str, now: Millis) -> Result<bool, Error> {
    const SQL: &str = "update outbox set due_at = $2, dead_at = null, attempts = 0
        where id = $1 and sent_at is null and dropped_at is null";
    Ok(tx.execute(SQL, values![id, now]).await? == 1)
}

/// Takes a mail out of the queue, by the operator's wish. False if there is none to take out.
pub async fn drop_unsent(tx: &mut Tx, id: &str, now: Millis) -> Result<bool, Error> {
    const SQL: &str =
        "update outbox set dropped_at = $2, reason = 'dropped by the operator', recipient = '',
            claimed_by = null, claimed_until = null
        where id = $1 and sent_at is null and dropped_at is null";
    Ok(tx.execute(SQL, values![id, now]).await? == 1)
}
