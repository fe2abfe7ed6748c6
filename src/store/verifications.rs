//! Codes that verify one registration each: started → consumed, or expired.

use super::db::{Row, Tx};
use super::values;
use crate::clock::Millis;
use crate::error::Error;

#[derive(Clone, Debug)]
pub struct Verification {
    pub id: String,
    pub address_hash: Vec<u8>,
    /// `None` until the mail worker has chosen the registration that a code sent again is for.
    pub registration_id: Option<String>,
    pub key_id: String,
    pub nonce: Vec<u8>,
    pub code_hash: Vec<u8>,
    pub reference: String,
    pub network: String,
    pub started_at: Millis,
    pub expires_at: Millis,
}

impl Verification {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get("id")?,
            address_hash: row.get("address_hash")?,
            registration_id: row.get("registration_id")?,
            key_id: row.get("key_id")?,
            nonce: row.get("nonce")?,
            code_hash: row.get("code_hash")?,
            reference: row.get("reference")?,
            network: row.get("network")?,
            started_at: row.get("started_at")?,
            expires_at: row.get("expires_at")?,
        })
    }
}

/// Starts a verification. False if another one has the same code: try another nonce.
pub async fn start(tx: &mut Tx, new: &Verification) -> Result<bool, Error> {
    const SQL: &str = "insert into verifications (id, address_hash, registration_id, key_id, nonce,
            code_hash, reference, network, started_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict (code_hash) do nothing";
    let values = values![
        &new.id,
        &new.address_hash,
        &new.registration_id,
        &new.key_id,
        &new.nonce,
        &new.code_hash,
        &new.reference,
        &new.network,
        new.started_at,
        new.expires_at
    ];
    Ok(tx.execute(SQL, values).await? == 1)
}

/// How many live verifications an address has.
pub async fn count_live(tx: &mut Tx, address_hash: &[u8], now: Millis) -> Result<i64, Error> {
    const SQL: &str = "select count(*) as live from verifications
        where address_hash = $1 and expires_at > $2 and consumed_at is null and expired_at is null";
    tx.one(SQL, values![address_hash, now]).await?.get("live")
}

/// `(network, reference)` of what an address was sent and what has not run out, newest first. Used ones too: whether a code was used is
/// nothing for whoever asks again.
pub async fn references(
    tx: &mut Tx,
    address_hash: &[u8],
    now: Millis,
) -> Result<Vec<(String, String)>, Error> {
    const SQL: &str = "select network, reference from verifications
        where address_hash = $1 and expires_at > $2 order by started_at desc, id desc limit 100";
    let rows = tx.all(SQL, values![address_hash, now]).await?;
    rows.iter()
        .map(|row| Ok((row.get("network")?, row.get("reference")?)))
        .collect()
}

/// A live verification, for its mail.
pub async fn find_live(tx: &mut Tx, id: &str, now: Millis) -> Result<Option<Verification>, Error> {
    const SQL: &str = "select * from verifications
        where id = $1 and expires_at > $2 and consumed_at is null and expired_at is null";
    tx.first(SQL, values![id, now])
        .await?
        .map(|row| Verification::from_row(&row))
        .transpose()
}

/// Ties a verification to the registration that its code is for, once.
pub async fn assign(tx: &mut Tx, id: &str, registration_id: &str) -> Result<(), Error> {
    const SQL: &str =
        "update verifications set registration_id = $2 where id = $1 and registration_id is null";
    tx.execute(SQL, values![id, registration_id]).await?;
    Ok(())
}

/// The verification that a code belongs to, in whatever state it is.
pub async fn find_by_code(
    tx: &mut Tx,
    key_id: &str,
    code_hash: &[u8],
) -> Result<Option<Verification>, Error> {
    const SQL: &str = "select * from verifications where code_hash = $1 and key_id = $2";
    let row = tx.first(SQL, values![code_hash, key_id]).await?;
    row.map(|row| Verification::from_row(&row)).transpose()
}

/// started → consumed. False if it is not started any more.
pub async fn consume(tx: &mut Tx, id: &str, now: Millis) -> Result<bool, Error> {
    const SQL: &str = "update verifications set consumed_at = $2
        where id = $1 and expires_at > $2 and consumed_at is null and expired_at is null";
    Ok(tx.execute(SQL, values![id, now]).await? == 1)
}

/// Ends every open one there is (`migrate --after-restore`).
pub async fn expire_everybodys(tx: &mut Tx, now: Millis) -> Result<u64, Error> {
    const SQL: &str =
        "update verifications set expired_at = $1 where consumed_at is null and expired_at is null";
    tx.execute(SQL, values![now]).await
}

/// A code that came too late stays dead, whatever the clock says next.
pub async fn expire_overdue(tx: &mut Tx, now: Millis) -> Result<u64, Error> {
    const SQL: &str = "update verifications set expired_at = $1
        where consumed_at is null and expired_at is null and expires_at <= $1";
    tx.execute(SQL, values![now]).await
}
