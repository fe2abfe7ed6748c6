//! Sessions, and the devices and networks that an account is known to sign in from.

use super::db::{Row, Tx, Value};
use super::values;
use crate::clock::Millis;
use crate::error::Error;

#[derive(Clone, Debug)]
pub struct Session {
    pub id: String,
    pub account_id: String,
    pub key_id: String,
    pub secret_hash: Vec<u8>,
    pub network: String,
    pub user_agent: String,
    pub client_hash: Option<Vec<u8>>,
    pub created_at: Millis,
    pub seen_at: Millis,
    pub expires_at: Millis,
}

impl Session {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get("id")?,
            account_id: row.get("account_id")?,
            key_id: row.get("key_id")?,
            secret_hash: row.get("secret_hash")?,
            network: row.get("network")?,
            user_agent: row.get("user_agent")?,
            client_hash: row.get("client_hash")?,
            created_at: row.get("created_at")?,
            seen_at: row.get("seen_at")?,
            expires_at: row.get("expires_at")?,
        })
    }
}

pub async fn insert(tx: &mut Tx, new: &Session) -> Result<(), Error> {
    const SQL: &str =
        "insert into sessions (id, account_id, key_id, secret_hash, network, user_agent,
            client_hash, created_at, seen_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let values = values![
        &new.id,
        &new.account_id,
        &new.key_id,
        &new.secret_hash,
        &new.network,
        &new.user_agent,
        &new.client_hash,
        new.created_at,
        new.seen_at,
        new.expires_at
    ];
    tx.execute(SQL, values).await?;
    Ok(())
}

/// A live session by the hash of its secret.
pub async fn find_by_secret(
    tx: &mut Tx,
    key_id: &str,
    secret_hash: &[u8],
    now: Millis,
    seen_since: Millis,
) -> Result<Option<Session>, Error> {
    const SQL: &str = "select * from sessions where secret_hash = $1 and key_id = $2
        and ended_at is null and expires_at > $3 and seen_at > $4";
    let row = tx
        .first(SQL, values![secret_hash, key_id, now, seen_since])
        .await?;
    row.map(|row| Session::from_row(&row)).transpose()
}

/// A live session by its id (which no client can use without a signed token).
pub async fn find(
    tx: &mut Tx,
    id: &str,
    now: Millis,
    seen_since: Millis,
) -> Result<Option<Session>, Error> {
    const SQL: &str = "select * from sessions where id = $1
        and ended_at is null and expires_at > $2 and seen_at > $3";
    let row = tx.first(SQL, values![id, now, seen_since]).await?;
    row.map(|row| Session::from_row(&row)).transpose()
}

/// The live sessions of an account, last seen first.
pub async fn of_account(
    tx: &mut Tx,
    account_id: &str,
    now: Millis,
    seen_since: Millis,
) -> Result<Vec<Session>, Error> {
    const SQL: &str = "select * from sessions where account_id = $1
            and ended_at is null and expires_at > $2 and seen_at > $3
        order by seen_at desc, id desc limit 100";
    let rows = tx.all(SQL, values![account_id, now, seen_since]).await?;
    rows.iter().map(Session::from_row).collect()
}

/// Writes down that a session was used. An ended one stays ended.
pub async fn touch(tx: &mut Tx, id: &str, now: Millis) -> Result<(), Error> {
    const SQL: &str = "update sessions set seen_at = $2 where id = $1 and ended_at is null";
    tx.execute(SQL, values![id, now]).await?;
    Ok(())
}

/// Ends one session of an account. False if it is not live.
pub async fn end(
    tx: &mut Tx,
    account_id: &str,
    id: &str,
    why: &str,
    now: Millis,
) -> Result<bool, Error> {
    const SQL: &str = "update sessions set ended_at = $4, ended_why = $3
        where id = $2 and account_id = $1 and ended_at is null";
    Ok(tx.execute(SQL, values![account_id, id, why, now]).await? == 1)
}

/// Ends every session of an account.
pub async fn end_all(tx: &mut Tx, account_id: &str, why: &str, now: Millis) -> Result<u64, Error> {
    const SQL: &str = "update sessions set ended_at = $3, ended_why = $2
        where account_id = $1 and ended_at is null";
    tx.execute(SQL, values![account_id, why, now]).await
}

/// Ends every session there is (`migrate --after-restore`).
pub async fn end_everybodys(tx: &mut Tx, why: &str, now: Millis) -> Result<u64, Error> {
    const SQL: &str = "update sessions set ended_at = $2, ended_why = $1 where ended_at is null";
    tx.execute(SQL, values![why, now]).await
}

/// Remembers where an account signed in from.
pub async fn remember(
    tx: &mut Tx,
    account_id: &str,
    device_hash: &[u8],
    network: &str,
    now: Millis,
) -> Result<(), Error> {
    const DEVICE: &str =
        "insert into known_devices (account_id, device_hash, seen_at) values ($1, $2, $3)
        on conflict (account_id, device_hash) do update set seen_at = excluded.seen_at";
    const NETWORK: &str =
        "insert into known_networks (account_id, network, seen_at) values ($1, $2, $3)
        on conflict (account_id, network) do update set seen_at = excluded.seen_at";
    tx.execute(DEVICE, values![account_id, device_hash, now])
        .await?;
    tx.execute(NETWORK, values![account_id, network, now])
        .await?;
    Ok(())
}

/// Whether anybody signed in from a network later than `since`.
pub async fn signed_in_from(tx: &mut Tx, network: &str, since: Millis) -> Result<bool, Error> {
    const SQL: &str =
        "select 1 as found from known_networks where network = $1 and seen_at > $2 limit 1";
    Ok(tx.first(SQL, values![network, since]).await?.is_some())
}

/// Whether any account knows this device: only then is its cookie one of ours.
pub async fn device_exists(tx: &mut Tx, device_hash: Option<&[u8]>) -> Result<bool, Error> {
    const SQL: &str = "select 1 as found from known_devices where device_hash = $1 limit 1";
    Ok(tx.first(SQL, &[Value::Bytes(device_hash)]).await?.is_some())
}
