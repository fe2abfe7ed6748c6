//! What an operator does to accounts. Locking is an operator's act alone; no call of a stranger ever locks or unlocks.

use super::email::Email;
use super::{audit, password, session};
use crate::app::App;
use crate::error::Error;
use crate::store::accounts::Account;
use crate::store::{accounts, resets, sessions, verifications};

/// Why an operator's command can't be done.
#[derive(Debug)]
pub enum Refusal {
    NoSuchAccount,
    /// It is in that state already.
    NothingToDo,
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Makes a verified account (the operator vouches for the address).
pub async fn create(app: &App, typed: &str, new_password: &str) -> Result<Account, Refusal> {
    let email = Email::parse(typed).ok_or(Error::InvalidEmail)?;
    let checked = password::check(
        &app.config.accounts.password,
        new_password,
        &[email.stored()],
    )?;
    let hash = app.hasher.hash(checked).await?;
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    accounts::insert_unverified(&mut tx, &app.id(), email.stored(), email.canonical(), now).await?;
    let account = accounts::find_by_email(&mut tx, email.canonical()).await?;
    let account = account.ok_or(Refusal::NoSuchAccount)?;
    accounts::lock_row(&mut tx, &account.id).await?;
    if account.verified_at.is_some() {
        return Err(Error::AccountExists.into());
    }
    accounts::set_proved_password(&mut tx, &account.id, &hash, now).await?;
    accounts::delete_registrations(&mut tx, &account.id).await?;
    audit(
        app,
        &mut tx,
        "account_created",
        Some(&account.id),
        None,
        None,
    )
    .await?;
    tx.commit().await?;
    Ok(account)
}

/// Locks an account: its sessions and open resets end.
pub async fn lock(app: &App, typed: &str) -> Result<Account, Refusal> {
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let account = find(&mut tx, typed).await?;
    if !accounts::lock(&mut tx, &account.id, now).await? {
        return Err(Refusal::NothingToDo);
    }
    resets::expire_others(&mut tx, &account.id, "", now).await?;
    session::end_all(&mut tx, &account.id, "locked", now).await?;
    audit(
        app,
        &mut tx,
        "account_locked",
        Some(&account.id),
        None,
        None,
    )
    .await?;
    tx.commit().await?;
    app.sessions.forget();
    Ok(account)
}

/// Unlocks an account. Its owner signs in as before.
pub async fn unlock(app: &App, typed: &str) -> Result<Account, Refusal> {
    let mut tx = app.db.begin().await?;
    let account = find(&mut tx, typed).await?;
    if !accounts::unlock(&mut tx, &account.id).await? {
        return Err(Refusal::NothingToDo);
    }
    audit(
        app,
        &mut tx,
        "account_unlocked",
        Some(&account.id),
        None,
        None,
    )
    .await?;
    tx.commit().await?;
    Ok(account)
}

/// Deletes an account and everything of it but its audit rows.
pub async fn delete(app: &App, typed: &str) -> Result<Account, Refusal> {
    let mut tx = app.db.begin().await?;
    let account = find(&mut tx, typed).await?;
    accounts::delete(&mut tx, &account.id).await?;
    audit(
        app,
        &mut tx,
        "account_deleted",
        Some(&account.id),
        None,
        None,
    )
    .await?;
    tx.commit().await?;
    app.sessions.forget();
    Ok(account)
}

/// The account at an address.
pub async fn show(app: &App, typed: &str) -> Result<Account, Refusal> {
    let email = Email::parse(typed).ok_or(Refusal::NoSuchAccount)?;
    let account = accounts::find_by_email(&mut app.db.read().await?, email.canonical()).await?;
    account.ok_or(Refusal::NoSuchAccount)
}

/// Ends every session and every open flow: what a database restored from a backup must not bring back.
pub async fn end_everything(app: &App) -> Result<u64, Error> {
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let sessions = sessions::end_everybodys(&mut tx, "restored", now).await?;
    let flows = resets::expire_everybodys(&mut tx, now).await?
        + verifications::expire_everybodys(&mut tx, now).await?;
    audit(app, &mut tx, "restored", None, None, None).await?;
    tx.commit().await?;
    Ok(sessions + flows)
}

async fn find(tx: &mut crate::store::db::Tx, typed: &str) -> Result<Account, Refusal> {
    let email = Email::parse(typed).ok_or(Refusal::NoSuchAccount)?;
    let account = accounts::find_by_email(tx, email.canonical()).await?;
    let account = account.ok_or(Refusal::NoSuchAccount)?;
    accounts::lock_row(tx, &account.id).await?;
    Ok(account)
}
