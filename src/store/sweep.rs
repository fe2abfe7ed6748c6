//! Forgetting what need not be kept.

use super::db::Tx;
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
}

/// What goes, and before which moment.
type Sweep = (&'static str, fn(&Before) -> Millis);

const SWEEPS: [Sweep; 11] = [
    ("delete from requests where touched_at < $1", |before| {
        before.requests
    }),
    ("delete from caused_mails where caused_at < $1", |before| {
        before.requests
    }),
    (
        "delete from registrations where created_at < $1",
        |before| before.registrations,
    ),
    (
        "delete from accounts where created_at < $1 and verified_at is null and locked_at is null
            and not exists (select 1 from registrations r where r.account_id = accounts.id)",
        |before| before.registrations,
    ),
    (
        "delete from sessions where ended_at < $1 or expires_at < $1",
        |before| before.sessions,
    ),
    ("delete from resets where expires_at < $1", |before| {
        before.flows
    }),
    (
        "delete from verifications where expires_at < $1",
        |before| before.flows,
    ),
    (
        "delete from outbox where sent_at < $1 or dropped_at < $1 or dead_at < $1",
        |before| before.mails,
    ),
    ("delete from audit where at < $1", |before| before.audit),
    ("delete from known_devices where seen_at < $1", |before| {
        before.known_devices
    }),
    ("delete from known_networks where seen_at < $1", |before| {
        before.known_networks
    }),
];

/// Deletes everything older than its moment; the number of rows.
pub async fn delete_old(tx: &mut Tx, before: &Before) -> Result<u64, Error> {
    let mut rows = 0;
    for (sql, moment) in SWEEPS {
        rows += tx.execute(sql, values![moment(before)]).await?;
    }
    Ok(rows)
}

/// Keeps the newest `most` request rows, so that a stranger who asks for ever new addresses fills no disk.
pub async fn bound_requests(tx: &mut Tx, most: i64) -> Result<u64, Error> {
    const SQL: &str = "delete from requests where touched_at <
        (select touched_at from requests order by touched_at desc limit 1 offset $1)";
    tx.execute(SQL, values![most]).await
}
