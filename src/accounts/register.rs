//! Registering, and proving the address. An address that is not verified is not taken: each registration has its own code, and the one
//! whose code comes back becomes the account.

use super::budgets;
use super::caused_mail::{self, CountedAs};
use super::email::{Email, canonical_or_nobody};
use super::{Client, audit, password};
use crate::app::App;
use crate::config::Disclosure;
use crate::error::Error;
use crate::keys::Purpose;
use crate::mail::Mail;
use crate::random::{Code, Secret};
use crate::store::accounts::{Account, Registration};
use crate::store::db::Tx;
use crate::store::verifications::Verification;
use crate::store::{accounts, outbox, requests, verifications};

/// Longest name, in characters.
const LONGEST_NAME: usize = 100;

/// What somebody typed.
#[derive(Clone, Debug)]
pub struct Form {
    pub email: String,
    pub password: Secret<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub phone: Option<String>,
}

/// Which registration a code is for.
pub(super) enum CodeFor<'a> {
    /// One that is kept only if its code goes out, since without one nobody could ever verify it.
    New(&'a Registration),
    /// One that waits, by its id.
    Waiting(&'a str),
    /// One that the mail worker chooses, if one waits at the address.
    Whichever,
}

/// Registers; the answer is the reference that the mail shows too.
///
/// # Errors
/// A bad address or optional field, a weak password, and (where disclosure is documented) a verified address.
pub async fn register(app: &App, client: &Client, form: &Form) -> Result<String, Error> {
    let email = Email::parse(&form.email).ok_or(Error::InvalidEmail)?;
    check_profile(form)?;
    let mut own = vec![email.stored()];
    own.extend(
        [&form.first_name, &form.last_name, &form.phone]
            .into_iter()
            .flatten()
            .map(String::as_str),
    );
    let checked = password::check(app, form.password.reveal(), &own).await?;
    let documented = app.config.accounts.disclosure == Disclosure::Documented && !client.page;
    if documented && is_taken(&mut app.db.read().await?, &email).await? {
        return Err(Error::AccountExists);
    }
    let password_hash = app.hasher.hash(checked).await?;

    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    accounts::insert_unverified(&mut tx, &app.id(), email.stored(), email.canonical(), now).await?;
    let account = take_account(&mut tx, email.canonical()).await?;
    if documented && account.verified_at.is_some() {
        return Err(Error::AccountExists);
    }
    let registration = Registration {
        id: app.id(),
        account_id: account.id,
        email: email.stored().to_owned(),
        password_hash,
        first_name: form.first_name.clone(),
        last_name: form.last_name.clone(),
        phone: form.phone.clone(),
        network: client.network.clone(),
        created_at: now,
    };
    let sent = send_code(
        app,
        &mut tx,
        client,
        email.canonical(),
        CodeFor::New(&registration),
    )
    .await?;
    audit(
        app,
        &mut tx,
        "registered",
        Some(&registration.account_id),
        Some(client),
        None,
    )
    .await?;
    tx.commit().await?;
    app.mail_queued.notify_one();
    Ok(sent)
}

async fn is_taken(tx: &mut Tx, email: &Email) -> Result<bool, Error> {
    let account = accounts::find_by_email(tx, email.canonical()).await?;
    Ok(account.is_some_and(|account| account.verified_at.is_some()))
}

/// The account at an address, its row taken.
async fn take_account(tx: &mut Tx, canonical: &str) -> Result<Account, Error> {
    let gone = || Error::internal("an account went away while it was registered");
    let account = accounts::find_by_email(tx, canonical)
        .await?
        .ok_or_else(gone)?;
    accounts::lock_row(tx, &account.id).await?;
    accounts::find(tx, &account.id).await?.ok_or_else(gone)
}

/// Starts a verification and queues its mail, unless three are live, the budget is spent, or (for a code sent again) the last one is too
/// fresh: then nothing is sent and the answer looks the same. It then names the mail that this very network asked for last, or none that
/// there is: a person must never find on the screen the reference of a mail that a stranger caused (S-08).
pub(super) async fn send_code(
    app: &App,
    tx: &mut Tx,
    client: &Client,
    canonical: &str,
    code_for: CodeFor<'_>,
) -> Result<String, Error> {
    let now = app.clock.now();
    let settings = &app.config.accounts.reset;
    let key = app.keys.current();
    let address_hash = key.address_hash(canonical);
    let purpose = Purpose::Verify.name();
    let last = requests::take(tx, &address_hash, purpose, &key.id, now).await?;
    let sent = verifications::references(tx, &address_hash, now).await?;
    let (nonce, reference) = unlike(app, &sent);
    let is_new = matches!(code_for, CodeFor::New(_));
    let too_fresh = !is_new && now < last.sent_at + settings.resend_after.0;
    let full = verifications::count_live(tx, &address_hash, now).await? >= settings.max_live;
    if too_fresh || full || !caused_mail::take(app, tx, CountedAs::Other, canonical, client).await?
    {
        let own = sent.into_iter().find(|(by, _)| *by == client.network);
        return Ok(own.map_or(reference, |(_, reference)| reference));
    }
    requests::answer(tx, &address_hash, purpose, &reference, now, now).await?;
    let registration_id = match code_for {
        CodeFor::New(registration) => {
            accounts::insert_registration(tx, registration).await?;
            Some(registration.id.clone())
        }
        CodeFor::Waiting(id) => Some(id.to_owned()),
        CodeFor::Whichever => None,
    };
    let verification = Verification {
        id: app.id(),
        address_hash,
        registration_id,
        key_id: key.id.clone(),
        nonce: nonce.to_vec(),
        code_hash: key.code_lookup(Purpose::Verify, &key.code(Purpose::Verify, &nonce)),
        reference: reference.clone(),
        network: client.network.clone(),
        started_at: now,
        expires_at: now + settings.code_life.0,
    };
    if !verifications::start(tx, &verification).await? {
        return Err(Error::internal(
            "a new code is already in use; chance 2^-50 for each live code",
        ));
    }
    let (mail, mail_id, flow) = (
        Mail::VerifyCode.name(),
        app.id(),
        Some(verification.id.as_str()),
    );
    outbox::queue(tx, &mail_id, mail, canonical, flow, &client.network, now).await?;
    Ok(reference)
}

/// A nonce whose reference no mail bears yet.
fn unlike(app: &App, sent: &[(String, String)]) -> ([u8; 16], String) {
    loop {
        let nonce = app.random.bytes();
        let reference = app.keys.current().tag(Purpose::Verify, &nonce);
        if sent.iter().all(|(_, other)| *other != reference) {
            return (nonce, reference);
        }
    }
}

/// Sends the code of a registration again; the answer is the reference that the mail shows too.
///
/// # Errors
/// [`Error::AccountNotFound`] where disclosure is documented and no registration waits at this address.
pub async fn resend(app: &App, client: &Client, email: &str) -> Result<String, Error> {
    let canonical = canonical_or_nobody(email);
    let mut tx = app.db.begin().await?;
    let reference = send_code(app, &mut tx, client, &canonical, CodeFor::Whichever).await?;
    let documented = app.config.accounts.disclosure == Disclosure::Documented && !client.page;
    let waits = if documented {
        let account = accounts::find_by_email(&mut tx, &canonical).await?;
        account.is_some_and(|account| account.verified_at.is_none())
    } else {
        true
    };
    tx.commit().await?;
    app.mail_queued.notify_one();
    if waits {
        Ok(reference)
    } else {
        Err(Error::AccountNotFound)
    }
}

/// The code from the mail makes its registration the account, and voids the others; the answer is the address.
///
/// # Errors
/// [`Error::InvalidOtp`] for wrong, expired, used and unknown alike; too many wrong ones.
pub async fn verify(app: &App, client: &Client, typed: &str) -> Result<String, Error> {
    let code = Code::parse(typed).ok_or(Error::InvalidOtp)?;
    let paid = budgets::reserve_code(app, client).await?;
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let found = find_by_code(app, &mut tx, &code).await?;
    let Some((verification, registration)) = found else {
        return Err(Error::InvalidOtp);
    };
    if !verifications::consume(&mut tx, &verification.id, now).await?
        || !accounts::verify_as(&mut tx, &registration, now).await?
    {
        return Err(Error::InvalidOtp);
    }
    accounts::delete_registrations(&mut tx, &registration.account_id).await?;
    audit(
        app,
        &mut tx,
        "email_verified",
        Some(&registration.account_id),
        Some(client),
        None,
    )
    .await?;
    paid.was_right(app, &mut tx).await?;
    tx.commit().await?;
    Ok(registration.email)
}

async fn find_by_code(
    app: &App,
    tx: &mut Tx,
    code: &Code,
) -> Result<Option<(Verification, Registration)>, Error> {
    for key in app.keys.iter() {
        let hash = key.code_lookup(Purpose::Verify, code);
        let Some(found) = verifications::find_by_code(tx, &key.id, &hash).await? else {
            continue;
        };
        let id = found.registration_id.as_deref().unwrap_or_default();
        let Some(registration) = accounts::find_registration(tx, id).await? else {
            continue;
        };
        accounts::lock_row(tx, &registration.account_id).await?;
        return Ok(Some((found, registration)));
    }
    Ok(None)
}

/// Names are one line of at most 100 characters, phones E.164 (`+` and 8 to 15 digits).
fn check_profile(form: &Form) -> Result<(), Error> {
    let is_name = |name: &str| {
        let length = name.chars().count();
        (1..=LONGEST_NAME).contains(&length) && !name.chars().any(is_bent)
    };
    let names = [
        ("firstName", &form.first_name),
        ("lastName", &form.last_name),
    ];
    for (field, name) in names {
        if name.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(Error::InvalidField(field));
        }
    }
    match &form.phone {
        Some(phone) if !is_phone(phone) => Err(Error::InvalidField("phone")),
        _ => Ok(()),
    }
}

/// Controls, and the characters that turn the direction of what follows (M-02).
fn is_bent(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

fn is_phone(phone: &str) -> bool {
    phone.strip_prefix('+').is_some_and(|digits| {
        (8..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0')
    })
}
