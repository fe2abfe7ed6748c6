//! Recovery: forgot → confirm → reset. One file, because it is one state machine.
//!
//! ```text
//! forgot ──▶ started ──confirm──▶ confirmed ──reset──▶ consumed
//!               └─────────┬───────────┘
//!                      expired: time · a sibling's confirm · a password change · lock · delete · logout-all
//! ```
//!
//! Each arrow is one conditional update that changed exactly one row. Until the mail worker has looked the address up, a reset belongs to
//! an address and not to an account, so that asking costs and answers the same for every address.

use super::budgets;
use super::caused_mail::{self, CountedAs};
use super::email::canonical_or_nobody;
use super::{Client, audit, password, seconds_until, session};
use crate::app::App;
use crate::clock::Millis;
use crate::config::{Disclosure, Proof};
use crate::error::Error;
use crate::keys::Purpose;
use crate::mail::Mail;
use crate::random::{Code, Secret, same};
use crate::store::accounts::Account;
use crate::store::db::Tx;
use crate::store::resets::{Confirm, NewReset, Reset};
use crate::store::{accounts, outbox, requests, resets};

/// What `forgot-password` answers.
#[derive(Clone, Debug)]
pub struct Forgot {
    /// Three letters that the mail shows too.
    pub reference: String,
    /// Seconds.
    pub expires_in: i64,
    /// Seconds.
    pub resend_after: i64,
}

/// What a confirm answers.
#[derive(Debug)]
pub struct Confirmed {
    pub email: String,
    pub grant: Secret<String>,
}

/// The proof that comes with a reset.
#[derive(Clone, Debug)]
pub enum Grant {
    /// The call carried one. `None`: something that can't be one (null, empty, not a string, twice).
    Sent(Option<String>),
    /// The published body knows no grant; the fallback may hold.
    NotSent,
}

/// Step 1: starts a reset and queues its mail, in one transaction, for any address.
///
/// # Errors
/// [`Error::AccountNotFound`] where disclosure is documented.
pub async fn forgot(app: &App, client: &Client, email: &str) -> Result<Forgot, Error> {
    let canonical = canonical_or_nobody(email);
    let mut tx = app.db.begin().await?;
    let answer = ask(app, &mut tx, client, &canonical).await?;
    let documented = app.config.accounts.disclosure == Disclosure::Documented && !client.page;
    let unknown = documented
        && accounts::find_by_email(&mut tx, &canonical)
            .await?
            .is_none();
    tx.commit().await?;
    app.mail_queued.notify_one();
    if unknown {
        Err(Error::AccountNotFound)
    } else {
        Ok(answer)
    }
}

/// What is written for an address, known or not.
async fn ask(app: &App, tx: &mut Tx, client: &Client, canonical: &str) -> Result<Forgot, Error> {
    let now = app.clock.now();
    let settings = &app.config.accounts.reset;
    let key = app.keys.current();
    let address_hash = key.address_hash(canonical);
    let purpose = Purpose::Reset.name();
    let last = requests::take(tx, &address_hash, purpose, &key.id, now).await?;
    let uniform = app.config.accounts.disclosure == Disclosure::Uniform || client.page;
    let live = resets::live_of_address(tx, &address_hash, uniform, now).await?;
    let full = live.len() as i64 >= settings.max_live;
    let free_at = if full {
        live[0]
    } else {
        last.asked_at + settings.resend_after.0
    };
    let repeat = Forgot {
        reference: last.reference,
        expires_in: seconds_until(last.asked_at + settings.code_life.0, now, 0),
        resend_after: seconds_until(free_at, now, 1),
    };
    if full || now < last.sent_at + settings.resend_after.0 {
        return Ok(repeat);
    }
    // A request that nothing was sent for makes nobody wait whose own would be: a stranger over the cap could keep the owner out.
    let within = caused_mail::take(app, tx, CountedAs::Recovery, canonical, client).await?;
    if !within && now < free_at {
        return Ok(repeat);
    }
    let nonce: [u8; 16] = app.random.bytes();
    let reference = key.tag(Purpose::Reset, &nonce);
    let sent_at = if within { now } else { last.sent_at };
    requests::answer(tx, &address_hash, purpose, &reference, now, sent_at).await?;
    if within {
        start(app, tx, client, canonical, &nonce, &reference).await?;
    }
    Ok(Forgot {
        reference,
        expires_in: settings.code_life.seconds(),
        resend_after: settings.resend_after.seconds(),
    })
}

async fn start(
    app: &App,
    tx: &mut Tx,
    client: &Client,
    canonical: &str,
    nonce: &[u8],
    reference: &str,
) -> Result<(), Error> {
    let id = insert(app, tx, client, canonical, nonce, reference).await?;
    let (mail, mail_id, now) = (Mail::ResetCode.name(), app.id(), app.clock.now());
    outbox::queue(
        tx,
        &mail_id,
        mail,
        canonical,
        Some(&id),
        &client.network,
        now,
    )
    .await?;
    audit(app, tx, "reset_started", None, Some(client), Some(&id)).await
}

/// Writes a started reset; its id.
async fn insert(
    app: &App,
    tx: &mut Tx,
    client: &Client,
    canonical: &str,
    nonce: &[u8],
    reference: &str,
) -> Result<String, Error> {
    let now = app.clock.now();
    let key = app.keys.current();
    let id = app.id();
    let client_hash = client.hash(key);
    let new = NewReset {
        id: &id,
        address_hash: &key.address_hash(canonical),
        key_id: &key.id,
        nonce,
        code_hash: &key.code_lookup(Purpose::Reset, &key.code(Purpose::Reset, nonce)),
        reference,
        network: &client.network,
        client_hash: client_hash.as_deref(),
        started_at: now,
        expires_at: now + app.config.accounts.reset.code_life.0,
    };
    if !resets::start(tx, &new).await? {
        return Err(Error::internal(
            "a new code is already in use; chance 2^-50 for each live code",
        ));
    }
    Ok(id)
}

/// Step 1 by an operator, for a person whose mail does not arrive: the code itself, to be handed over by other means.
pub async fn by_operator(app: &App, account: &Account) -> Result<Code, Error> {
    let key = app.keys.current();
    let nonce: [u8; 16] = app.random.bytes();
    let reference = key.tag(Purpose::Reset, &nonce);
    let operator = Client {
        network: "operator".to_owned(),
        ..Client::default()
    };
    let mut tx = app.db.begin().await?;
    let id = insert(
        app,
        &mut tx,
        &operator,
        &account.email_canonical,
        &nonce,
        &reference,
    )
    .await?;
    resets::assign(&mut tx, &id, &account.id).await?;
    audit(
        app,
        &mut tx,
        "reset_link_made",
        Some(&account.id),
        None,
        Some(&id),
    )
    .await?;
    tx.commit().await?;
    Ok(key.code(Purpose::Reset, &nonce))
}

/// Step 2: the code from the mail confirms its reset, expires the account's others and gives the grant.
///
/// # Errors
/// [`Error::InvalidOtp`] for wrong, expired, used and unknown alike; too many wrong ones.
pub async fn confirm(
    app: &App,
    client: &Client,
    typed: &str,
    grant_only: bool,
) -> Result<Confirmed, Error> {
    let code = Code::parse(typed).ok_or(Error::InvalidOtp)?;
    let paid = budgets::reserve_code(app, client).await?;
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let Some((reset, account)) = find_by_code(app, &mut tx, &code).await? else {
        return Err(Error::InvalidOtp);
    };
    // A reset's row names its key; its grant lives under the same one, so that removing the key voids both.
    let key = app.keys.find(&reset.key_id).ok_or(Error::InvalidOtp)?;
    let grant = app.random.secret();
    let by = client.hash(app.keys.current());
    let may_fall_back = app.config.accounts.reset.proof == Proof::SameClient
        && !grant_only
        && !client.page
        && !client.forwarded
        && by.is_some();
    let confirm = Confirm {
        at: now,
        until: now + app.config.accounts.reset.confirmed_life.0,
        by: by.as_deref(),
        fallback_until: may_fall_back.then(|| now + app.config.accounts.reset.fallback_life.0),
        grant_hash: &key.grant_hash(grant.reveal()),
    };
    if account.locked_at.is_some() || !resets::confirm(&mut tx, &reset.id, &confirm).await? {
        return Err(Error::InvalidOtp);
    }
    resets::expire_others(&mut tx, &account.id, &reset.id, now).await?;
    audit(
        app,
        &mut tx,
        "reset_confirmed",
        Some(&account.id),
        Some(client),
        Some(&reset.id),
    )
    .await?;
    paid.was_right(app, &mut tx).await?;
    tx.commit().await?;
    Ok(Confirmed {
        email: account.email,
        grant,
    })
}

/// The reset of a code and its account, with the account's row taken.
async fn find_by_code(
    app: &App,
    tx: &mut Tx,
    code: &Code,
) -> Result<Option<(Reset, Account)>, Error> {
    for key in app.keys.iter() {
        let hash = key.code_lookup(Purpose::Reset, code);
        let Some(reset) = resets::find_by_code(tx, &key.id, &hash).await? else {
            continue;
        };
        let Some(account_id) = reset.account_id.clone() else {
            continue;
        };
        if accounts::lock_row(tx, &account_id).await? {
            let account = accounts::find(tx, &account_id).await?;
            return Ok(account.map(|account| (reset, account)));
        }
    }
    Ok(None)
}

/// Step 3: a new password for the account at this address, whose reset was confirmed by whoever calls.
///
/// # Errors
/// In this order: no account, no proof, weak password, busy.
pub async fn reset(
    app: &App,
    client: &Client,
    email: &str,
    new_password: &str,
    grant: &Grant,
) -> Result<(), Error> {
    let canonical = canonical_or_nobody(email);
    let uniform = app.config.accounts.disclosure == Disclosure::Uniform || client.page;
    let mut tx = app.db.read().await?;
    let account = accounts::find_by_email(&mut tx, &canonical).await?;
    // Nobody has the empty id: the same questions are asked for an unknown address.
    let account_id = account.as_ref().map_or("", |account| account.id.as_str());
    let confirmed = resets::find_confirmed(&mut tx, account_id, app.clock.now()).await?;
    let proved = match &confirmed {
        Some(reset) => proves(app, &mut tx, client, reset, grant).await?,
        None => false,
    };
    drop(tx);
    let account = match account {
        Some(account) => account,
        None if uniform => return Err(Error::InvalidRequest),
        None => return Err(Error::NoAccountToReset),
    };
    let Some(reset) = confirmed else {
        return Err(Error::InvalidRequest);
    };
    if !proved || account.locked_at.is_some() {
        return refuse(app, client, &account, &reset).await;
    }
    let own = own_data(&account);
    let checked = password::check(app, new_password, &own).await?;
    let hash = app.hasher.hash(checked).await?;
    finish(app, client, &account, &reset, &hash).await
}

/// Somebody wants to finish a confirmed reset who may not: the operator should be able to see that.
async fn refuse(app: &App, client: &Client, account: &Account, reset: &Reset) -> Result<(), Error> {
    let (event, account_id) = ("reset_refused", Some(account.id.as_str()));
    let mut tx = app.db.begin().await?;
    audit(
        app,
        &mut tx,
        event,
        account_id,
        Some(client),
        Some(&reset.id),
    )
    .await?;
    tx.commit().await?;
    Err(Error::InvalidRequest)
}

/// The transaction that replaces the hash: everything or nothing, and once.
async fn finish(
    app: &App,
    client: &Client,
    account: &Account,
    reset: &Reset,
    hash: &str,
) -> Result<(), Error> {
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    accounts::lock_row(&mut tx, &account.id).await?;
    if !resets::consume(&mut tx, &reset.id, now).await?
        || !accounts::set_proved_password(&mut tx, &account.id, hash, &account.email_canonical, now)
            .await?
    {
        return Err(Error::InvalidRequest);
    }
    resets::expire_others(&mut tx, &account.id, &reset.id, now).await?;
    // Whatever was registered for the address before its owner proved it, and every code for it.
    accounts::delete_registrations(&mut tx, &account.id).await?;
    session::end_all(&mut tx, &account.id, "password_reset", now).await?;
    budgets::clear_passwords(app, &mut tx, &account.email_canonical).await?;
    let (mail, mail_id) = (Mail::PasswordChanged.name(), app.id());
    outbox::queue(
        &mut tx,
        &mail_id,
        mail,
        &account.email_canonical,
        None,
        &client.network,
        now,
    )
    .await?;
    audit(
        app,
        &mut tx,
        "password_reset",
        Some(&account.id),
        Some(client),
        Some(&reset.id),
    )
    .await?;
    tx.commit().await?;
    app.sessions.forget();
    app.mail_queued.notify_one();
    Ok(())
}

/// Whether the caller is the one who confirmed: by the grant; or, for a client written from the published page, by everything else
/// that can be known about it (contract, "Proof").
async fn proves(
    app: &App,
    tx: &mut Tx,
    client: &Client,
    reset: &Reset,
    grant: &Grant,
) -> Result<bool, Error> {
    match grant {
        Grant::Sent(None) => Ok(false),
        Grant::Sent(Some(sent)) => {
            let key = app.keys.find(&reset.key_id);
            let expected = reset.grant_hash.as_deref().unwrap_or_default();
            Ok(key.is_some_and(|key| same(&key.grant_hash(sent), expected)))
        }
        Grant::NotSent => falls_back(app, tx, client, reset).await,
    }
}

async fn falls_back(app: &App, tx: &mut Tx, client: &Client, reset: &Reset) -> Result<bool, Error> {
    let settings = &app.config.accounts.reset;
    let now = app.clock.now();
    let (Some(until), Some(confirmed_by), Some(account_id), Some(caller)) = (
        reset.fallback_until,
        reset.confirmed_by.as_deref(),
        reset.account_id.as_deref(),
        client.hash(app.keys.current()),
    ) else {
        return Ok(false);
    };
    let same_client = settings.proof == Proof::SameClient
        && now <= until
        && same(&caller, confirmed_by)
        && !client.forwarded
        && !client.page;
    if !same_client {
        return Ok(false);
    }
    // On a developer's machine everybody is 127.0.0.1, and often the same program.
    if client.loopback && app.config.public_origin_is_loopback() {
        return Ok(true);
    }
    let since: Millis = now - settings.fallback_quiet.0;
    Ok(!resets::client_served_others(tx, &caller, account_id, since).await?)
}

/// What the person's password must not be made of.
pub fn own_data(account: &Account) -> Vec<&str> {
    let optional = [&account.first_name, &account.last_name, &account.phone];
    let mut own = vec![account.email.as_str()];
    own.extend(optional.into_iter().flatten().map(String::as_str));
    own
}
