//! Signing in. The same text, the same work and the same writes for an unknown address, a wrong password and a locked account.

use super::budgets::{self, PasswordTry};
use super::email::canonical_or_nobody;
use super::register::{self, CodeFor};
use super::session::{self, Begun};
use super::{Client, audit, password};
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
    /// Whose hash that is while the account is unverified.
    registration_id: Option<String>,
    /// The account's own, or while it is unverified that of its newest registration, the asking network's before others'.
    hash: Option<String>,
}

/// Who gave the right password of an address that is not proved yet.
struct Unverified<'a> {
    account: &'a Account,
    registration_id: Option<String>,
    paid: PasswordTry,
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
    let candidate = candidate(&mut app.db.read().await?, &canonical, &client.network).await?;
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
        registration_id,
        hash: Some(hash),
    }) = right
    else {
        return refuse(app, client, None).await;
    };
    if account.verified_at.is_none() {
        let unverified = Unverified {
            account: &account,
            registration_id,
            paid,
        };
        return refuse(app, client, Some(unverified)).await;
    }
    let stronger = if verdict.outdated {
        Some(app.hasher.hash(password).await?)
    } else {
        None
    };
    sign_in(app, client, account, &hash, stronger, paid).await
}

async fn candidate(
    tx: &mut Tx,
    canonical: &str,
    network: &str,
) -> Result<Option<Candidate>, Error> {
    let Some(account) = accounts::find_by_email(tx, canonical).await? else {
        // As many questions as for an account.
        accounts::newest_registration(tx, "", network).await?;
        return Ok(None);
    };
    let newest = accounts::newest_registration(tx, &account.id, network).await?;
    let (registration_id, hash) = match (account.verified_at, newest) {
        (None, Some(newest)) => (Some(newest.id), Some(newest.password_hash)),
        (None, None) => (None, None),
        (Some(_), _) => (None, account.password_hash.clone()),
    };
    Ok(Some(Candidate {
        account,
        registration_id,
        hash,
    }))
}

/// Says no. `unverified`: the password of this registration was right, but the address is not proved yet.
async fn refuse(
    app: &App,
    client: &Client,
    unverified: Option<Unverified<'_>>,
) -> Result<(Account, Begun), Error> {
    let uniform = app.config.accounts.disclosure == Disclosure::Uniform || client.page;
    let account_id = unverified.as_ref().map(|found| found.account.id.clone());
    let mut tx = app.db.begin().await?;
    match unverified {
        // Where no answer tells, neither does a count: it stays as after a wrong password.
        Some(Unverified {
            account,
            registration_id: Some(id),
            ..
        }) if uniform => {
            accounts::lock_row(&mut tx, &account.id).await?;
            if accounts::find_registration(&mut tx, &id).await?.is_some() {
                let canonical = &account.email_canonical;
                register::send_code(app, &mut tx, client, canonical, CodeFor::Waiting(&id)).await?;
            }
        }
        Some(Unverified { paid, .. }) if !uniform => paid.was_right(&mut tx).await?,
        _ => {}
    }
    let id = account_id.as_deref();
    audit(app, &mut tx, "login_refused", id, Some(client), None).await?;
    tx.commit().await?;
    app.mail_queued.notify_one();
    match account_id {
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
