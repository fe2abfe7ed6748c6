//! The words. Nothing that a registrant typed is in a mail to an address that is not verified; no link changes anything when opened.

use askama::Template;

use super::Letter;
use crate::clock::{Millis, for_people};
use crate::config::Config;
use crate::error::Error;
use crate::random::Code;

/// What the code mails say.
struct CodeMail<'a> {
    brand: &'a str,
    code: &'a str,
    bare_code: &'a str,
    reference: &'a str,
    minutes: u64,
    when: &'a str,
    network: &'a str,
    link: &'a str,
    support: &'a str,
    host: &'a str,
}

/// What the other mails say.
struct Notice<'a> {
    brand: &'a str,
    when: &'a str,
    network: &'a str,
    login_link: &'a str,
    forgot_link: &'a str,
    support: &'a str,
}

macro_rules! part {
    ($name:ident, $data:ident, $path:literal) => {
        #[derive(Template)]
        #[template(path = $path)]
        struct $name<'a> {
            m: &'a $data<'a>,
        }
    };
}
part!(ResetCodeText, CodeMail, "mails/reset_code.txt");
part!(ResetCodeHtml, CodeMail, "mails/reset_code.html");
part!(VerifyCodeText, CodeMail, "mails/verify_code.txt");
part!(VerifyCodeHtml, CodeMail, "mails/verify_code.html");
part!(PasswordChangedText, Notice, "mails/password_changed.txt");
part!(PasswordChangedHtml, Notice, "mails/password_changed.html");
part!(RegisterAttemptText, Notice, "mails/register_attempt.txt");
part!(RegisterAttemptHtml, Notice, "mails/register_attempt.html");
part!(AccountLockedText, Notice, "mails/account_locked.txt");
part!(AccountLockedHtml, Notice, "mails/account_locked.html");

/// Where a letter goes, and what it tells of: when and from which network.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    pub id: &'a str,
    pub to: &'a str,
    pub network: &'a str,
    pub caused_at: Millis,
    pub now: Millis,
}

/// Which code a letter carries.
#[derive(Clone, Copy)]
pub enum CodeFor {
    Reset,
    Verify,
}

/// The letter with a code.
pub fn with_code(
    config: &Config,
    envelope: &Envelope<'_>,
    code_for: CodeFor,
    code: &Code,
    reference: &str,
) -> Result<Letter, Error> {
    let page = match code_for {
        CodeFor::Reset => "confirm",
        CodeFor::Verify => "verify",
    };
    let origin = &config.server.public_origin;
    // In the fragment: it reaches no server, no log and no proxy.
    let link = format!("{origin}/account/{page}#code={}", code.shown());
    let m = &CodeMail {
        brand: &config.mail.brand,
        code: &code.shown(),
        bare_code: code.bare(),
        reference,
        minutes: (config.accounts.reset.code_life.seconds() / 60).max(1) as u64,
        when: &for_people(envelope.caused_at),
        network: envelope.network,
        link: &link,
        support: &config.mail.support,
        host: config.public_host(),
    };
    let (subject, text, html) = match code_for {
        CodeFor::Reset => (
            "Your code to set a new password",
            ResetCodeText { m }.render(),
            ResetCodeHtml { m }.render(),
        ),
        CodeFor::Verify => (
            "Your code to confirm your address",
            VerifyCodeText { m }.render(),
            VerifyCodeHtml { m }.render(),
        ),
    };
    // The reference is in the subject, never the code: subjects are shown on locked screens.
    seal(
        config,
        envelope,
        format!("{subject} ({reference})"),
        text,
        html,
    )
}

/// Which notice a letter is.
#[derive(Clone, Copy)]
pub enum NoticeOf {
    PasswordChanged,
    RegisterAttempt,
    AccountLocked,
}

/// A letter without a code.
pub fn notice(config: &Config, envelope: &Envelope<'_>, of: NoticeOf) -> Result<Letter, Error> {
    let origin = &config.server.public_origin;
    let m = &Notice {
        brand: &config.mail.brand,
        when: &for_people(envelope.caused_at),
        network: envelope.network,
        login_link: &format!("{origin}/account/login"),
        forgot_link: &format!("{origin}/account/forgot"),
        support: &config.mail.support,
    };
    let (subject, text, html) = match of {
        NoticeOf::PasswordChanged => (
            "Your password was changed",
            PasswordChangedText { m }.render(),
            PasswordChangedHtml { m }.render(),
        ),
        NoticeOf::RegisterAttempt => (
            "You already have an account",
            RegisterAttemptText { m }.render(),
            RegisterAttemptHtml { m }.render(),
        ),
        NoticeOf::AccountLocked => (
            "Your account is locked",
            AccountLockedText { m }.render(),
            AccountLockedHtml { m }.render(),
        ),
    };
    seal(config, envelope, subject.to_owned(), text, html)
}

fn seal(
    config: &Config,
    envelope: &Envelope<'_>,
    subject: String,
    text: askama::Result<String>,
    html: askama::Result<String>,
) -> Result<Letter, Error> {
    let failed = |error| Error::Internal(Box::new(error));
    let domain = config.mail.from.rsplit('@').next().unwrap_or("localhost");
    Ok(Letter {
        message_id: format!("<{}@{}>", envelope.id, domain.trim_end_matches('>')),
        to: envelope.to.to_owned(),
        subject,
        text: text.map_err(failed)?,
        html: html.map_err(failed)?,
        written_at: envelope.now,
    })
}
