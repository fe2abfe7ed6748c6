//! Password resets: started → confirmed → consumed, and expired from the first two. Each arrow is one conditional update.

use super::db::{Row, Tx};
use super::values;
use crate::clock::Millis;
use crate::error::Error;

/// A reset that is not over.
#[derive(Clone, Debug)]
pub struct Reset {
    pub id: String,
    pub account_id: Option<String>,
    pub key_id: String,
    pub nonce: Vec<u8>,
    pub reference: String,
    pub network: String,
    pub started_at: Millis,
    pub expires_at: Millis,
    pub confirmed_at: Option<Millis>,
    pub confirmed_by: Option<Vec<u8>>,
    pub fallback_until: Option<Millis>,
    pub grant_hash: Option<Vec<u8>>,
}

/// A reset about to start.
#[derive(Debug)]
pub struct NewReset<'a> {
    pub id: &'a str,
    pub address_hash: &'a [u8],
    pub key_id: &'a str,
    pub nonce: &'a [u8],
    pub code_hash: &'a [u8],
    pub reference: &'a str,
    pub network: &'a str,
    pub client_hash: Option<&'a [u8]>,
    pub started_at: Millis,
    pub expires_at: Millis,
}

/// What a confirm writes down.
#[derive(Debug)]
pub struct Confirm<'a> {
    pub at: Millis,
    pub until: Millis,
    pub by: Option<&'a [u8]>,
    pub fallback_until: Option<Millis>,
    pub grant_hash: &'a [u8],
}

impl Reset {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get("id")?,
            account_id: row.get("account_id")?,
            key_id: row.get("key_id")?,
            nonce: row.get("nonce")?,
            reference: row.get("reference")?,
            network: row.get("network")?,
            started_at: row.get("started_at")?,
            expires_at: row.get("expires_at")?,
            confirmed_at: row.get("confirmed_at")?,
            confirmed_by: row.get("confirmed_by")?,
            fallback_until: row.get("fallback_until")?,
            grant_hash: row.get("grant_hash")?,
        })
    }
}

/// Starts a reset. False if another one has the same code (2^-50): try another nonce.
pub async fn start(tx: &mut Tx, new: &NewReset<'_>) -> Result<bool, Error> {
    const SQL: &str = "insert into resets (id, address_hash, key_id, nonce, code_hash, reference,
            network, client_hash, started_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict (code_hash) do nothing";
    let values = values![
        new.id,
        new.address_hash,
        new.key_id,
        new.nonce,
        new.code_hash,
        new.reference,
        new.network,
        super::db::Value::Bytes(new.client_hash),
        new.started_at,
        new.expires_at
    ];
    Ok(tx.execute(SQL, values).await? == 1)
}

/// When the codes of an address run out, soonest first: of its started resets, or with `whatever_became` of all that were asked for.
/// Only accounts confirm and expire resets, so that the shorter list would tell an account from an unknown address.
pub async fn live_of_address(
    tx: &mut Tx,
    address_hash: &[u8],
    whatever_became: bool,
    now: Millis,
) -> Result<Vec<Millis>, Error> {
    const SQL: &str = "select expires_at from resets where address_hash = $1 and expires_at > $2
            and ($3 = 1 or confirmed_at is null and consumed_at is null and expired_at is null)
        order by expires_at limit 16";
    let rows = tx
        .all(SQL, values![address_hash, now, i64::from(whatever_became)])
        .await?;
    rows.iter().map(|row| row.get("expires_at")).collect()
}

/// A started reset that its mail may still be sent for.
pub async fn find_started(tx: &mut Tx, id: &str, now: Millis) -> Result<Option<Reset>, Error> {
    const SQL: &str = "select * from resets where id = $1 and expires_at > $2
        and confirmed_at is null and consumed_at is null and expired_at is null";
    tx.first(SQL, values![id, now])
        .await?
        .map(|row| Reset::from_row(&row))
        .transpose()
}

/// Ties a reset to the account at its address, once.
pub async fn assign(tx: &mut Tx, id: &str, account_id: &str) -> Result<(), Error> {
    const SQL: &str = "update resets set account_id = $2 where id = $1 and account_id is null";
    tx.execute(SQL, values![id, account_id]).await?;
    Ok(())
}

/// The reset that a code belongs to, in whatever state it is.
pub async fn find_by_code(
    tx: &mut Tx,
    key_id: &str,
    code_hash: &[u8],
) -> Result<Option<Reset>, Error> {
    const SQL: &str = "select * from resets where code_hash = $1 and key_id = $2";
    let row = tx.first(SQL, values![code_hash, key_id]).await?;
    row.map(|row| Reset::from_row(&row)).transpose()
}

/// started → confirmed. False if it is not started any more.
pub async fn confirm(tx: &mut Tx, id: &str, confirm: &Confirm<'_>) -> Result<bool, Error> {
    const SQL: &str =
        "update resets set confirmed_at = $2, confirmed_until = $3, confirmed_by = $4,
            fallback_until = $5, grant_hash = $6
        where id = $1 and expires_at > $2 and account_id is not null
            and confirmed_at is null and consumed_at is null and expired_at is null";
    let values = values![
        id,
        confirm.at,
        confirm.until,
        super::db::Value::Bytes(confirm.by),
        confirm.fallback_until,
        confirm.grant_hash
    ];
    Ok(tx.execute(SQL, values).await? == 1)
}

/// The confirmed reset of an account that is still good. There is at most one: a confirm expires the others.
pub async fn find_confirmed(
    tx: &mut Tx,
    account_id: &str,
    now: Millis,
) -> Result<Option<Reset>, Error> {
    const SQL: &str = "select * from resets where account_id = $1 and confirmed_until > $2
            and confirmed_at is not null and consumed_at is null and expired_at is null
        order by confirmed_at desc limit 1";
    let row = tx.first(SQL, values![account_id, now]).await?;
    row.map(|row| Reset::from_row(&row)).transpose()
}

/// confirmed → consumed. False if it is not confirmed any more.
pub async fn consume(tx: &mut Tx, id: &str, now: Millis) -> Result<bool, Error> {
    const SQL: &str = "update resets set consumed_at = $2 where id = $1 and confirmed_until > $2
        and confirmed_at is not null and consumed_at is null and expired_at is null";
    Ok(tx.execute(SQL, values![id, now]).await? == 1)
}

/// started or confirmed → expired, for all of an account's but one (`except` may be empty). One whose mail is still in the queue knows
/// its account by the mail's recipient only.
pub async fn expire_others(
    tx: &mut Tx,
    account_id: &str,
    except: &str,
    now: Millis,
) -> Result<u64, Error> {
    const SQL: &str = "update resets set expired_at = $3
        where id in (select id from resets where account_id = $1
                union select o.flow_id from outbox o join accounts a on a.email_canonical = o.recipient
                    where a.id = $1 and o.kind = 'reset_code' and o.sent_at is null)
            and id <> $2 and consumed_at is null and expired_at is null
            and (confirmed_at is null and expires_at > $3 or confirmed_until > $3)";
    tx.execute(SQL, values![account_id, except, now]).await
}

/// Ends every open one there is (`migrate --after-restore`).
pub async fn expire_everybodys(tx: &mut Tx, now: Millis) -> Result<u64, Error> {
    const SQL: &str =
        "update resets set expired_at = $1 where consumed_at is null and expired_at is null";
    tx.execute(SQL, values![now]).await
}

/// A code that came too late stays dead, whatever the clock says next.
pub async fn expire_overdue(tx: &mut Tx, now: Millis) -> Result<u64, Error> {
    const SQL: &str = "update resets set expired_at = $1
        where consumed_at is null and expired_at is null
            and (confirmed_at is null and expires_at <= $1 or confirmed_until <= $1)";
    tx.execute(SQL, values![now]).await
}

/// Whether another account signed in, started or confirmed a reset from this client since `since`. A start whose mail is still in the
/// queue counts by the mail's recipient.
pub async fn client_served_others(
    tx: &mut Tx,
    client_hash: &[u8],
    account_id: &str,
    since: Millis,
) -> Result<bool, Error> {
    const SQL: &str = "select 1 as found where
        exists (select 1 from sessions where client_hash = $1 and created_at > $3 and account_id <> $2)
        or exists (select 1 from resets where client_hash = $1 and started_at > $3 and account_id <> $2)
        or exists (select 1 from resets where confirmed_by = $1 and confirmed_at > $3 and account_id <> $2)
        or exists (select 1 from resets r
            join outbox o on o.flow_id = r.id and o.sent_at is null and o.dropped_at is null and o.dead_at is null
            join accounts a on a.email_canonical = o.recipient and a.id <> $2
            where r.client_hash = $1 and r.started_at > $3 and r.account_id is null)";
    Ok(tx
        .first(SQL, values![client_hash, account_id, since])
        .await?
        .is_some())
}
