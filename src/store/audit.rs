//! The audit log: who did what, from which network, in which request. Never a secret.

use super::db::{Row, Tx};
use super::values;
use crate::clock::Millis;
use crate::error::Error;

#[derive(Clone, Debug)]
pub struct Entry {
    pub id: String,
    pub at: Millis,
    pub event: String,
    pub account_id: Option<String>,
    /// `client`, `operator` or `system`.
    pub actor: String,
    pub network: Option<String>,
    pub request_id: Option<String>,
    pub detail: Option<String>,
}

impl Entry {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get("id")?,
            at: row.get("at")?,
            event: row.get("event")?,
            account_id: row.get("account_id")?,
            actor: row.get("actor")?,
            network: row.get("network")?,
            request_id: row.get("request_id")?,
            detail: row.get("detail")?,
        })
    }
}

pub async fn insert(tx: &mut Tx, entry: &Entry) -> Result<(), Error> {
    const SQL: &str =
        "insert into audit (id, at, event, account_id, actor, network, request_id, detail)
        values ($1, $2, $3, $4, $5, $6, $7, $8)";
    let values = values![
        &entry.id,
        entry.at,
        &entry.event,
        &entry.account_id,
        &entry.actor,
        &entry.network,
        &entry.request_id,
        &entry.detail
    ];
    tx.execute(SQL, values).await?;
    Ok(())
}

/// Newest first, of one account or of all.
pub async fn list(tx: &mut Tx, account_id: Option<&str>, limit: i64) -> Result<Vec<Entry>, Error> {
    const SQL: &str = "select * from audit where $1 is null or account_id = $1
        order by at desc, id desc limit $2";
    tx.all(SQL, values![account_id, limit])
        .await?
        .iter()
        .map(Entry::from_row)
        .collect()
}
