//! Signing in. The same text, the same work and the same writes for an unknown address, a wrong password and a locked account.

use super::budgets::{self, PasswordTry};
use super::email::canonical_or_nobody;
use super::session::{self, Begun};
use super::{Client, audit, password, register};
use crate::app::App;
use crate::config::Disclosure;
use crate::error::Error;
use crate::random::Secret;
use crate::store::accounts;
use crate::store::accounts::Account;
use crate::store::db::Tx;

/// An account that may be meant, with the hash that its password must match.
struct Candidate {
    account: Account,
    /// The account's own, or while it is unverified that of its newest registration.
    hash: Option<String>,
}

/// Signs in with address and password.
///
/// # Errors
/// [`Error::InvalidCredentials`]; [`Error::EmailNotVerified`] after the right password, where disclosure is documented; too many wrong
/// ones for this address; busy.
pub async fn login(
    app: &App,
    client: &Client,
    email: &str,
    typed: &str,
) -> Result<(Account, Begun), Error> {
    let canonical = canonical_or_nobody(email);
    let paid = budgets::reserve_password(app, client, &canonical).await?;
    let candidate = candidate(&mut app.db.read().await?, &canonical).await?;
    let hash = candidate
        .as_ref()
        .and_then(|candidate| candidate.hash.as_deref());
    let password = password::normal(typed);
    let verdict = match app.hasher.verify(password.clone(), hash).await {
        Ok(verdict) => verdict,
        Err(error) => {
            paid.was_not_made(app).await?;
            return Err(error);
        }
    };
    let right = candidate.filter(|found| verdict.right && found.account.locked_at.is_none());
    let Some(Candidate {
        account,
        hash: Some(hash),
    }) = right
    else {
        return refuse(app, client, None).await;
    };
    if account.verified_at.is_none() {
        return refuse(app, client, Some((&account, paid))).await;
    }
    let stronger = if verdict.outdated {
        Some(app.hasher.hash(password).await?)
    } else {
        None
    };
    sign_in(app, client, account, &hash, stronger, paid).await
}

async fn candidate(tx: &mut Tx, canonical: &str) -> Result<Option<Candidate>, Error> {
    let Some(account) = accounts::find_by_email(tx, canonical).await? else {
        // As many questions as for an account.
        accounts::newest_registration(tx, "", "").await?;
        return Ok(None);
    };
    let newest = accounts::newest_registration(tx, &account.id, "").await?;
    let hash = match account.verified_at {
        Some(_) => account.password_hash.clone(),
        None => newest.map(|registration| registration.password_hash),
    };
    Ok(Some(Candidate { account, hash }))
}

/// Says no. `unverified`: the password was right, but the address is not proved yet.
async fn refuse(
    app: &App,
    client: &Client,
    unverified: Option<(&Account, PasswordTry)>,
) -> Result<(Account, Begun), Error> {
    let uniform = app.config.accounts.disclosure == Disclosure::Uniform || client.page;
    let mut tx = app.db.begin().await?;
    let account = unverified.as_ref().map(|(account, _)| *account);
    match unverified {
        // Where no answer tells, neither does a count: it stays as after a wrong password.
        Some((account, _)) if uniform => {
            register::send_code(app, &mut tx, client, &account.email_canonical, None).await?;
        }
        Some((_, paid)) => paid.was_right(&mut tx).await?,
        None => {}
    }
    let id = account.map(|account| account.id.as_str());
    audit(app, &mut tx, "login_refused", id, Some(client), None).await?;
    tx.commit().await?;
    app.mail_queued.notify_one();
    match account {
        Some(_) if !uniform => Err(Error::EmailNotVerified),
        _ => Err(Error::InvalidCredentials),
    }
}

async fn sign_in(
    app: &App,
    client: &Client,
    account: Account,
    hash: &str,
    stronger: Option<String>,
    paid: PasswordTry,
) -> Result<(Account, Begun), Error> {
    let mut tx = app.db.begin().await?;
    // The password may have been changed while it was verified: a session must not outlive its password.
    if !accounts::mark_signed_in(&mut tx, &account.id, hash, app.clock.now()).await? {
        drop(tx);
        return refuse(app, client, None).await;
    }
    if let Some(stronger) = stronger {
        accounts::rehash(&mut tx, &account.id, hash, &stronger).await?;
    }
    paid.was_right(&mut tx).await?;
    let begun = session::begin(app, &mut tx, client, &account).await?;
    audit(
        app,
        &mut tx,
        "login",
        Some(&account.id),
        Some(client),
        Some(&begun.session.id),
    )
    .await?;
    tx.commit().await?;
    Ok((account, begun))
}

/// Whether this is the account's password (for calls that ask for it again).
pub async fn is_password(app: &App, account: &Account, typed: &str) -> Result<bool, Error> {
    let password: Secret<String> = password::normal(typed);
    let verdict = app
        .hasher
        .verify(password, account.password_hash.as_deref())
        .await?;
    Ok(verdict.right)
}
