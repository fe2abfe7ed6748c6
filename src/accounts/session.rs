//! Sessions: a row that is looked up, a secret in a cookie, a signed token that names the row.

use std::sync::Arc;

use super::{Client, audit};
use crate::app::App;
use crate::clock::Millis;
use crate::error::Error;
use crate::random::{Secret, sha256};
use crate::store::accounts::Account;
use crate::store::db::Tx;
use crate::store::sessions::Session;
use crate::store::{accounts, resets, sessions};

/// How often a stream asks whether its session still lives.
const STREAM_CHECK: std::time::Duration = std::time::Duration::from_millis(500);

/// What a caller shows to prove a session. The first one present decides alone.
#[derive(Clone, Debug)]
pub enum Credential {
    Bearer(Secret<String>),
    Cookie(Secret<String>),
    /// None was sent, or one that can't be right (twice, or not text).
    None,
}

/// A caller who is signed in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    pub account: Arc<Account>,
    pub session: Arc<Session>,
}

/// A session that has just begun.
#[derive(Debug)]
pub struct Begun {
    pub session: Session,
    /// For the cookie; kept hashed.
    pub secret: Secret<String>,
    /// For the long-lived device cookie; kept hashed.
    pub device: Secret<String>,
}

/// Begins a session in the transaction of a sign-in.
pub async fn begin(
    app: &App,
    tx: &mut Tx,
    client: &Client,
    account: &Account,
) -> Result<Begun, Error> {
    let now = app.clock.now();
    let key = app.keys.current();
    // A value from before the sign-in is worth nothing after it (S-03): the secret is always new.
    let secret = app.random.secret();
    let session = Session {
        id: app.id(),
        account_id: account.id.clone(),
        key_id: key.id.clone(),
        secret_hash: key.session_hash(secret.reveal()),
        network: client.network.clone(),
        user_agent: client.shown_agent(),
        client_hash: client.hash(key),
        created_at: now,
        seen_at: now,
        expires_at: now + app.config.accounts.session.max.0,
    };
    sessions::insert(tx, &session).await?;
    let device = device(app, tx, client).await?;
    let device_hash = key.device_hash(device.reveal());
    sessions::remember(tx, &account.id, &device_hash, &client.network, now).await?;
    Ok(Begun {
        session,
        secret,
        device,
    })
}

/// The device's own cookie if we gave it out, else a new one.
async fn device(app: &App, tx: &mut Tx, client: &Client) -> Result<Secret<String>, Error> {
    if let Some(device) = &client.device {
        let hash = app.keys.current().device_hash(device);
        if sessions::device_exists(tx, Some(&hash)).await? {
            return Ok(Secret::new(device.clone()));
        }
    }
    Ok(app.random.secret())
}

/// Whether somebody has signed in with the device of this cookie, whoever it was.
pub async fn knows_device(app: &App, device: &str) -> Result<bool, Error> {
    let hash = app.keys.current().device_hash(device);
    sessions::device_exists(&mut app.db.read().await?, Some(&hash)).await
}

/// Who calls, for requests that only pass through: a look-up of a moment ago counts.
///
/// # Errors
/// As [`authenticate`].
pub async fn authenticate_passing(app: &App, credential: &Credential) -> Result<SignedIn, Error> {
    let digest = match credential {
        Credential::None => return Err(Error::Unauthorized),
        Credential::Bearer(token) => sha256(token.reveal().as_bytes()),
        Credential::Cookie(secret) => sha256(secret.reveal().as_bytes()),
    };
    let now = app.clock.now();
    if let Some((account, session)) = app.sessions.get(&digest, now) {
        app.metrics.session_hits.inc();
        return Ok(SignedIn { account, session });
    }
    app.metrics.session_misses.inc();
    let generation = app.sessions.generation();
    // Apart: a request carries the room for what it waits for along, and most never come here.
    let found = Box::pin(authenticate(app, credential)).await?;
    app.sessions
        .put(generation, digest, now, &found.account, &found.session);
    Ok(found)
}

/// Ends when the session does; for streams, which outlive the request's own check.
pub async fn until_ended(app: std::sync::Arc<App>, credential: Credential) {
    let mut every = tokio::time::interval(STREAM_CHECK);
    loop {
        every.tick().await;
        if let Err(Error::Unauthorized) = authenticate_passing(&app, &credential).await {
            return;
        }
    }
}

/// Who calls.
///
/// # Errors
/// [`Error::Unauthorized`] for a credential that is missing, wrong, expired or revoked.
pub async fn authenticate(app: &App, credential: &Credential) -> Result<SignedIn, Error> {
    let now = app.clock.now();
    let seen_since = now - app.config.accounts.session.idle.0;
    let mut tx = app.db.read().await?;
    let session = match credential {
        Credential::None => None,
        Credential::Bearer(token) => match app.tokens.verify_access(token.reveal(), now) {
            Some(access) => sessions::find(&mut tx, &access.sid, now, seen_since)
                .await?
                .filter(|session| session.account_id == access.sub),
            None => None,
        },
        Credential::Cookie(secret) => by_cookie(app, &mut tx, secret, now, seen_since).await?,
    };
    let session = session.ok_or(Error::Unauthorized)?;
    // A removed key voids everything under it, tokens for its sessions included.
    app.keys.find(&session.key_id).ok_or(Error::Unauthorized)?;
    let account = accounts::find(&mut tx, &session.account_id).await?;
    let account = account
        .filter(|account| account.locked_at.is_none())
        .ok_or(Error::Unauthorized)?;
    drop(tx);
    touch(app, &session, now).await?;
    let (account, session) = (Arc::new(account), Arc::new(session));
    Ok(SignedIn { account, session })
}

async fn by_cookie(
    app: &App,
    tx: &mut Tx,
    secret: &Secret<String>,
    now: Millis,
    seen_since: Millis,
) -> Result<Option<Session>, Error> {
    for key in app.keys.iter() {
        let hash = key.session_hash(secret.reveal());
        let found = sessions::find_by_secret(tx, &key.id, &hash, now, seen_since).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Writes "last seen" when it has become stale, so that most requests cost a read only.
async fn touch(app: &App, session: &Session, now: Millis) -> Result<(), Error> {
    if now - session.seen_at < app.config.accounts.session.touch.0 {
        return Ok(());
    }
    let mut tx = app.db.begin().await?;
    sessions::touch(&mut tx, &session.id, now).await?;
    tx.commit().await
}

/// A new token for a session.
pub fn token(app: &App, session: &Session) -> Secret<String> {
    let now = app.clock.now();
    let life = app
        .config
        .accounts
        .session
        .idle
        .0
        .min(session.expires_at - now);
    app.tokens
        .access(&session.account_id, &session.id, now, life)
}

/// Ends the caller's session.
pub async fn logout(app: &App, client: &Client, caller: &SignedIn) -> Result<(), Error> {
    end_one(app, client, &caller.account.id, &caller.session.id).await
}

/// Ends one of the account's sessions.
///
/// # Errors
/// [`Error::NotFound`] when the account has no such live session.
pub async fn end_one(
    app: &App,
    client: &Client,
    account_id: &str,
    session_id: &str,
) -> Result<(), Error> {
    // Ours are plain; what is not may hold what a database refuses.
    if !session_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Error::NotFound);
    }
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    if !sessions::end(&mut tx, account_id, session_id, "logout", now).await? {
        return Err(Error::NotFound);
    }
    audit(
        app,
        &mut tx,
        "logout",
        Some(account_id),
        Some(client),
        Some(session_id),
    )
    .await?;
    tx.commit().await?;
    app.sessions.forget();
    Ok(())
}

/// Ends every session of the account and every open reset.
pub async fn logout_all(app: &App, client: &Client, account_id: &str) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    accounts::lock_row(&mut tx, account_id).await?;
    resets::expire_others(&mut tx, account_id, "", now).await?;
    end_all(&mut tx, account_id, "logout_all", now).await?;
    audit(
        app,
        &mut tx,
        "logout_all",
        Some(account_id),
        Some(client),
        None,
    )
    .await?;
    tx.commit().await?;
    app.sessions.forget();
    Ok(())
}

/// Ends every session of an account in the transaction of what demands it.
pub async fn end_all(tx: &mut Tx, account_id: &str, why: &str, now: Millis) -> Result<(), Error> {
    sessions::end_all(tx, account_id, why, now).await?;
    Ok(())
}

/// The account's live sessions, last seen first.
pub async fn list(app: &App, account_id: &str) -> Result<Vec<Session>, Error> {
    let now = app.clock.now();
    let seen_since = now - app.config.accounts.session.idle.0;
    sessions::of_account(&mut app.db.read().await?, account_id, now, seen_since).await
}
