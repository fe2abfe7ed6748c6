//! Networks that are kept out for a while. What a kind means is for the gateway to say, when one begins for the application.

use super::db::{Row, Tx};
use super::values;
use crate::clock::Millis;
use crate::error::Error;

#[derive(Clone, Debug)]
pub struct Ban {
    /// IPv4 address or IPv6 /64.
    pub network: String,
    /// `ban` or `slow`.
    pub kind: String,
    /// The so many-th in a row.
    pub times: i64,
    /// The guard's rule that denied last, or `operator`.
    pub why: String,
    pub began_at: Millis,
    pub until_at: Millis,
}

impl Ban {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            network: row.get("network")?,
            kind: row.get("kind")?,
            times: row.get("times")?,
            why: row.get("why")?,
            began_at: row.get("began_at")?,
            until_at: row.get("until_at")?,
        })
    }
}

/// The row of a network, also when its ban is over.
pub async fn find(tx: &mut Tx, network: &str) -> Result<Option<Ban>, Error> {
    const SQL: &str = "select * from bans where network = $1";
    let row = tx.first(SQL, values![network]).await?;
    row.map(|row| Ban::from_row(&row)).transpose()
}

/// Writes a row down in place of the one that was to end at `before` (none: of no row). False if another came first.
pub async fn put(tx: &mut Tx, new: &Ban, before: Option<Millis>) -> Result<bool, Error> {
    const SQL: &str = "insert into bans (network, kind, times, why, began_at, until_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (network) do update set kind = excluded.kind, times = excluded.times,
            why = excluded.why, began_at = excluded.began_at, until_at = excluded.until_at
        where bans.until_at = $7";
    let values = values![
        &new.network,
        &new.kind,
        new.times,
        &new.why,
        new.began_at,
        new.until_at,
        before
    ];
    Ok(tx.execute(SQL, values).await? == 1)
}

/// Those that are in force, the last to end first.
pub async fn in_force(tx: &mut Tx, now: Millis, limit: i64) -> Result<Vec<Ban>, Error> {
    const SQL: &str = "select * from bans where until_at > $1
        order by until_at desc, network desc limit $2";
    let rows = tx.all(SQL, values![now, limit]).await?;
    rows.iter().map(Ban::from_row).collect()
}

/// Forgets a network. False if nothing was known against it.
pub async fn delete(tx: &mut Tx, network: &str) -> Result<bool, Error> {
    const SQL: &str = "delete from bans where network = $1";
    Ok(tx.execute(SQL, values![network]).await? == 1)
}

/// Keeps the `most` rows that end last.
pub async fn bound(tx: &mut Tx, most: i64) -> Result<u64, Error> {
    const COUNT: &str = "select count(*) as n from bans";
    const SQL: &str = "delete from bans where network in
        (select network from bans order by until_at, network limit $1)";
    let surplus = tx.one(COUNT, &[]).await?.get::<i64>("n")? - most;
    if surplus <= 0 {
        return Ok(0);
    }
    tx.execute(SQL, values![surplus]).await
}
