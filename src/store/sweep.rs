//! Forgetting what need not be kept.

use super::db::{Db, Tx};
use super::values;
use crate::clock::Millis;
use crate::error::Error;

/// The moments before which rows of each sort go.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    pub requests: Millis,
    pub registrations: Millis,
    pub sessions: Millis,
    pub flows: Millis,
    pub mails: Millis,
    pub audit: Millis,
    pub known_devices: Millis,
    pub known_networks: Millis,
    pub bans: Millis,
}

/// What goes at once, at most: SQLite has one writer, and whoever waits for it is a customer.
const CHUNK: u64 = 1000;

/// What goes, and before which moment.
type Sweep = (&'static str, fn(&Before) -> Millis);

const SWEEPS: [Sweep; 15] = [
    (
        "delete from requests where (address_hash, purpose) in
            (select address_hash, purpose from requests where touched_at < $1 limit $2)",
        |before| before.requests,
    ),
    (
        "delete from caused_mails where id in
            (select id from caused_mails where caused_at < $1 limit $2)",
        |before| before.requests,
    ),
    (
        "delete from registrations where id in
            (select id from registrations where created_at < $1 limit $2)",
        |before| before.registrations,
    ),
    (
        "delete from accounts where id in
            (select id from accounts a where created_at < $1 and verified_at is null and locked_at is null
                and not exists (select 1 from registrations r where r.account_id = a.id) limit $2)",
        |before| before.registrations,
    ),
    (
        "delete from sessions where id in
            (select id from sessions where ended_at < $1 or expires_at < $1 limit $2)",
        |before| before.sessions,
    ),
    (
        "delete from resets where id in
            (select id from resets where expires_at < $1 limit $2)",
        |before| before.flows,
    ),
    // Those of addresses that nobody has: anybody can cause any number of them.
    (
        "delete from resets where id in
            (select id from resets where expires_at < $1 and account_id is null limit $2)",
        |before| before.requests,
    ),
    (
        "delete from verifications where id in
            (select id from verifications where expires_at < $1 limit $2)",
        |before| before.flows,
    ),
    (
        "delete from budgets where (kind, key) in
            (select kind, key from budgets where touched_at < $1 limit $2)",
        |before| before.flows,
    ),
    (
        "delete from outbox where id in
            (select id from outbox where caused_at < $1
                and (sent_at < $1 or dropped_at < $1 or dead_at < $1) limit $2)",
        |before| before.mails,
    ),
    (
        "delete from outbox where id in
            (select id from outbox where caused_at < $1 and dropped_at < $1 limit $2)",
        |before| before.requests,
    ),
    (
        "delete from audit where id in (select id from audit where at < $1 limit $2)",
        |before| before.audit,
    ),
    (
        "delete from known_devices where (account_id, device_hash) in
            (select account_id, device_hash from known_devices where seen_at < $1 limit $2)",
        |before| before.known_devices,
    ),
    (
        "delete from known_networks where (account_id, network) in
            (select account_id, network from known_networks where seen_at < $1 limit $2)",
        |before| before.known_networks,
    ),
    (
        "delete from bans where network in
            (select network from bans where until_at < $1 limit $2)",
        |before| before.bans,
    ),
];

/// Deletes everything older than its moment, in many short transactions; the number of rows.
pub async fn delete_old(db: &Db, before: &Before) -> Result<u64, Error> {
    let mut rows = 0;
    for (sql, moment) in SWEEPS {
        loop {
            let mut tx = db.begin().await?;
            let gone = tx
                .execute(sql, values![moment(before), CHUNK as i64])
                .await?;
            tx.commit().await?;
            rows += gone;
            if gone < CHUNK {
                break;
            }
        }
    }
    Ok(rows)
}

/// Keeps the newest `most` request rows, so that a stranger who asks for ever new addresses fills no disk.
pub async fn bound_requests(tx: &mut Tx, most: i64) -> Result<u64, Error> {
    const SQL: &str = "delete from requests where touched_at <
        (select touched_at from requests order by touched_at desc limit 1 offset $1)";
    tx.execute(SQL, values![most]).await
}

/// The same for the counts of wrong passwords, whose rows every guessed address makes.
pub async fn bound_guesses(tx: &mut Tx, most: i64) -> Result<u64, Error> {
    const SQL: &str = "delete from budgets where kind = 'password' and touched_at <
        (select touched_at from budgets where kind = 'password' order by touched_at desc limit 1 offset $1)";
    tx.execute(SQL, values![most]).await
}
