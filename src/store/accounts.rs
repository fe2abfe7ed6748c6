//! Accounts, and the registrations of unverified ones.

use super::db::{Row, Tx};
use super::values;
use crate::clock::Millis;
use crate::error::Error;

/// A customer account.
#[derive(Clone, Debug)]
pub struct Account {
    pub id: String,
    pub email: String,
    pub email_canonical: String,
    pub password_hash: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub phone: Option<String>,
    pub verified_at: Option<Millis>,
    pub locked_at: Option<Millis>,
    pub created_at: Millis,
}

/// What somebody registered for an address that is not verified.
#[derive(Clone, Debug)]
pub struct Registration {
    pub id: String,
    pub account_id: String,
    /// The address as typed for this registration.
    pub email: String,
    pub password_hash: String,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub phone: Option<String>,
    pub network: String,
    pub created_at: Millis,
}

impl Account {
    /// Where mail for the account goes. Until it is verified nobody's spelling counts: the first who typed one may be a stranger.
    pub fn mailbox(&self) -> &str {
        match self.verified_at {
            Some(_) => &self.email,
            None => &self.email_canonical,
        }
    }

    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get("id")?,
            email: row.get("email")?,
            email_canonical: row.get("email_canonical")?,
            password_hash: row.get("password_hash")?,
            first_name: row.get("first_name")?,
            last_name: row.get("last_name")?,
            phone: row.get("phone")?,
            verified_at: row.get("verified_at")?,
            locked_at: row.get("locked_at")?,
            created_at: row.get("created_at")?,
        })
    }
}

impl Registration {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get("id")?,
            account_id: row.get("account_id")?,
            email: row.get("email")?,
            password_hash: row.get("password_hash")?,
            first_name: row.get("first_name")?,
            last_name: row.get("last_name")?,
            phone: row.get("phone")?,
            network: row.get("network")?,
            created_at: row.get("created_at")?,
        })
    }
}

pub async fn find(tx: &mut Tx, id: &str) -> Result<Option<Account>, Error> {
    const SQL: &str = "select * from accounts where id = $1";
    tx.first(SQL, values![id])
        .await?
        .map(|row| Account::from_row(&row))
        .transpose()
}

pub async fn find_by_email(tx: &mut Tx, canonical: &str) -> Result<Option<Account>, Error> {
    const SQL: &str = "select * from accounts where email_canonical = $1";
    tx.first(SQL, values![canonical])
        .await?
        .map(|row| Account::from_row(&row))
        .transpose()
}

/// Newest first, for the operator.
pub async fn list(tx: &mut Tx, limit: i64) -> Result<Vec<Account>, Error> {
    const SQL: &str = "select * from accounts order by created_at desc, id desc limit $1";
    tx.all(SQL, values![limit])
        .await?
        .iter()
        .map(Account::from_row)
        .collect()
}

/// Makes an unverified account, unless there is one at this address.
pub async fn insert_unverified(
    tx: &mut Tx,
    id: &str,
    email: &str,
    canonical: &str,
    now: Millis,
) -> Result<(), Error> {
    const SQL: &str = "insert into accounts (id, email, email_canonical, created_at)
        values ($1, $2, $3, $4) on conflict (email_canonical) do nothing";
    tx.execute(SQL, values![id, email, canonical, now]).await?;
    Ok(())
}

/// Takes the account's row until the end of the transaction. False when there is no such account.
pub async fn lock_row(tx: &mut Tx, id: &str) -> Result<bool, Error> {
    const SQL: &str = "update accounts set id = id where id = $1";
    Ok(tx.execute(SQL, values![id]).await? == 1)
}

/// A sign-in with this very hash, by an account that may. False if either changed meanwhile.
pub async fn mark_signed_in(
    tx: &mut Tx,
    id: &str,
    password_hash: &str,
    now: Millis,
) -> Result<bool, Error> {
    const SQL: &str = "update accounts set signed_in_at = $3
        where id = $1 and password_hash = $2 and locked_at is null and verified_at is not null";
    Ok(tx.execute(SQL, values![id, password_hash, now]).await? == 1)
}

/// Replaces the hash by a stronger one of the same password. False if the password changed meanwhile.
pub async fn rehash(tx: &mut Tx, id: &str, old: &str, new: &str) -> Result<bool, Error> {
    const SQL: &str = "update accounts set password_hash = $3 where id = $1 and password_hash = $2";
    Ok(tx.execute(SQL, values![id, old, new]).await? == 1)
}

/// Sets a password whose owner has just proved the address, in this spelling: the account is verified from now on. False if it is locked.
pub async fn set_proved_password(
    tx: &mut Tx,
    id: &str,
    password_hash: &str,
    proved: &str,
    now: Millis,
) -> Result<bool, Error> {
    const SQL: &str = "update accounts set password_hash = $2, password_changed_at = $3,
            verified_at = coalesce(verified_at, $3),
            email = case when verified_at is null then $4 else email end
        where id = $1 and locked_at is null";
    let values = values![id, password_hash, now, proved];
    Ok(tx.execute(SQL, values).await? == 1)
}

/// Makes a registration's password and profile the account's. False if the account is verified already, or locked.
pub async fn verify_as(tx: &mut Tx, won: &Registration, now: Millis) -> Result<bool, Error> {
    const SQL: &str = "update accounts set verified_at = $2, email = $3, password_hash = $4,
            first_name = $5, last_name = $6, phone = $7, password_changed_at = $2
        where id = $1 and verified_at is null and locked_at is null";
    let values = values![
        &won.account_id,
        now,
        &won.email,
        &won.password_hash,
        &won.first_name,
        &won.last_name,
        &won.phone
    ];
    Ok(tx.execute(SQL, values).await? == 1)
}

/// Locks an account. False if it is locked already.
pub async fn lock(tx: &mut Tx, id: &str, now: Millis) -> Result<bool, Error> {
    const SQL: &str = "update accounts set locked_at = $2 where id = $1 and locked_at is null";
    Ok(tx.execute(SQL, values![id, now]).await? == 1)
}

/// Unlocks an account. False if it is not locked.
pub async fn unlock(tx: &mut Tx, id: &str) -> Result<bool, Error> {
    const SQL: &str =
        "update accounts set locked_at = null where id = $1 and locked_at is not null";
    Ok(tx.execute(SQL, values![id]).await? == 1)
}

/// Deletes an account with everything that hangs on it; the audit rows stay. False if there is none.
pub async fn delete(tx: &mut Tx, id: &str) -> Result<bool, Error> {
    const SQL: &str = "delete from accounts where id = $1";
    Ok(tx.execute(SQL, values![id]).await? == 1)
}

pub async fn insert_registration(tx: &mut Tx, new: &Registration) -> Result<(), Error> {
    const SQL: &str = "insert into registrations
        (id, account_id, email, password_hash, first_name, last_name, phone, network, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let values = values![
        &new.id,
        &new.account_id,
        &new.email,
        &new.password_hash,
        &new.first_name,
        &new.last_name,
        &new.phone,
        &new.network,
        new.created_at
    ];
    tx.execute(SQL, values).await?;
    Ok(())
}

pub async fn find_registration(tx: &mut Tx, id: &str) -> Result<Option<Registration>, Error> {
    const SQL: &str = "select * from registrations where id = $1";
    tx.first(SQL, values![id])
        .await?
        .map(|row| Registration::from_row(&row))
        .transpose()
}

/// The newest registration of an account; where `network` made one, the newest of those.
pub async fn newest_registration(
    tx: &mut Tx,
    account_id: &str,
    network: &str,
) -> Result<Option<Registration>, Error> {
    const SQL: &str = "select * from registrations where account_id = $1
        order by case when network = $2 then 0 else 1 end, created_at desc, id desc limit 1";
    let row = tx.first(SQL, values![account_id, network]).await?;
    row.map(|row| Registration::from_row(&row)).transpose()
}

/// The registration that a code sent again is for: the newest that the asking network made, or the only one. Never one of several that
/// others made.
pub async fn registration_to_resend(
    tx: &mut Tx,
    account_id: &str,
    network: &str,
) -> Result<Option<Registration>, Error> {
    const SQL: &str = "select * from registrations where account_id = $1
            and (network = $2 or 1 = (select count(*) from registrations where account_id = $1))
        order by created_at desc, id desc limit 1";
    let row = tx.first(SQL, values![account_id, network]).await?;
    row.map(|row| Registration::from_row(&row)).transpose()
}

/// Forgets everything that was registered for an address before it was proved.
pub async fn delete_registrations(tx: &mut Tx, account_id: &str) -> Result<(), Error> {
    const SQL: &str = "delete from registrations where account_id = $1";
    tx.execute(SQL, values![account_id]).await?;
    Ok(())
}
