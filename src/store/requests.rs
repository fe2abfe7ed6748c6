//! Who asked for mail to which address. Counted by a keyed hash of the address, the same whether anybody has it or not.

use super::db::{Tx, Value};
use super::values;
use crate::clock::Millis;
use crate::error::Error;

/// The last request for an address and purpose.
#[derive(Clone, Debug)]
pub struct Last {
    pub reference: String,
    pub asked_at: Millis,
    /// When one was asked that a mail went out for.
    pub sent_at: Millis,
}

/// Mails that were caused to an address, by span and asker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caused {
    pub network_hour: i64,
    pub network_day: i64,
    pub hour: i64,
    pub day: i64,
    /// Of `day`, those caused by known devices and networks.
    pub known_day: i64,
}

const HOUR: Millis = 3_600_000;
const DAY: Millis = 24 * HOUR;

/// Takes the row of an address and purpose until the end of the transaction, making it if need be, so that askers stand in a row.
/// What was asked last; times are 0 if nothing was.
pub async fn take(
    tx: &mut Tx,
    address_hash: &[u8],
    purpose: &str,
    key_id: &str,
    now: Millis,
) -> Result<Last, Error> {
    const SQL: &str =
        "insert into requests (address_hash, purpose, key_id, reference, asked_at, sent_at, touched_at)
        values ($1, $2, $3, '', 0, 0, $4)
        on conflict (address_hash, purpose) do update set touched_at = excluded.touched_at
        returning reference, asked_at, sent_at";
    let row = tx
        .one(SQL, values![address_hash, purpose, key_id, now])
        .await?;
    Ok(Last {
        reference: row.get("reference")?,
        asked_at: row.get("asked_at")?,
        sent_at: row.get("sent_at")?,
    })
}

/// Writes down what this request answers, and when a mail went out for it.
pub async fn answer(
    tx: &mut Tx,
    address_hash: &[u8],
    purpose: &str,
    reference: &str,
    now: Millis,
    sent_at: Millis,
) -> Result<(), Error> {
    const SQL: &str = "update requests set reference = $3, asked_at = $4, sent_at = $5
        where address_hash = $1 and purpose = $2";
    let values = values![address_hash, purpose, reference, now, sent_at];
    tx.execute(SQL, values).await?;
    Ok(())
}

/// Counts the mails caused to an address within the last hour and day.
pub async fn caused(
    tx: &mut Tx,
    address_hash: &[u8],
    counted_as: &str,
    network: &str,
    now: Millis,
) -> Result<Caused, Error> {
    const SQL: &str = "select count(*) as day,
            count(case when caused_at > $4 then 1 end) as hour,
            count(case when network = $3 then 1 end) as network_day,
            count(case when network = $3 and caused_at > $4 then 1 end) as network_hour,
            count(known_client) as known_day
        from caused_mails where address_hash = $1 and counted_as = $2 and caused_at > $5";
    let values = values![address_hash, counted_as, network, now - HOUR, now - DAY];
    let row = tx.one(SQL, values).await?;
    Ok(Caused {
        network_hour: row.get("network_hour")?,
        network_day: row.get("network_day")?,
        hour: row.get("hour")?,
        day: row.get("day")?,
        known_day: row.get("known_day")?,
    })
}

/// Counts one more.
pub async fn count(
    tx: &mut Tx,
    id: &str,
    address_hash: &[u8],
    counted_as: &str,
    network: &str,
    known: bool,
    now: Millis,
) -> Result<(), Error> {
    const SQL: &str =
        "insert into caused_mails (id, address_hash, counted_as, network, known_client, caused_at)
        values ($1, $2, $3, $4, $5, $6)";
    let known = Value::Int(known.then_some(now));
    let values = &[
        id.into(),
        address_hash.into(),
        counted_as.into(),
        network.into(),
        known,
        now.into(),
    ];
    tx.execute(SQL, values).await?;
    Ok(())
}

/// What the account at an address knows a client by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownBy {
    /// It signed in from this device.
    Device,
    /// It signed in from this network lately.
    Network,
}

/// What the account at an address knows a client by, the device first; a network only if it was used since `since`.
pub async fn known_by(
    tx: &mut Tx,
    canonical: &str,
    device_hash: Option<&[u8]>,
    network: &str,
    since: Millis,
) -> Result<Option<KnownBy>, Error> {
    const SQL: &str = "select
        (select count(*) from known_devices d join accounts a on a.id = d.account_id
            where a.email_canonical = $1 and d.device_hash = $2) as devices,
        (select count(*) from known_networks n join accounts a on a.id = n.account_id
            where a.email_canonical = $1 and n.network = $3 and n.seen_at > $4) as networks";
    let values = &[
        canonical.into(),
        Value::Bytes(device_hash),
        network.into(),
        since.into(),
    ];
    let row = tx.one(SQL, values).await?;
    let (devices, networks): (i64, i64) = (row.get("devices")?, row.get("networks")?);
    Ok(if devices > 0 {
        Some(KnownBy::Device)
    } else {
        (networks > 0).then_some(KnownBy::Network)
    })
}
