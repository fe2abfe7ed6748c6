//! What the hosted pages show: one struct a template, and nothing in them that must not be on a page (no password, no grant).

use askama::Template;

use words::{TextPart, wait};

pub mod words;

/// The frame of every page, fixed at start.
#[derive(Clone, Debug, Default)]
pub struct Shell {
    pub brand: String,
    /// Address for people who need help; empty: none.
    pub support: String,
    /// Address of the start page (on the mailbox: the public origin and a slash).
    pub home: String,
    /// Addresses of the assets with their hashes. `logo` and `brand_style` are empty where not configured.
    pub logo: String,
    pub icon: String,
    pub style: String,
    pub brand_style: String,
    pub script: String,
}

/// What is wrong with a form. The fields in the order in which they stand on the page: the first one gets the focus.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    /// What belongs to no field (a limit, a busy server); empty: nothing.
    pub problem: String,
    /// Name of the field, and what to change.
    pub fields: Vec<(&'static str, String)>,
}

impl Errors {
    pub fn any(&self) -> bool {
        !self.problem.is_empty() || !self.fields.is_empty()
    }

    /// The first wrong field, or nothing.
    pub fn first(&self) -> &str {
        self.fields.first().map_or("", |(name, _)| name)
    }

    pub fn of(&self, name: &str) -> &str {
        self.fields
            .iter()
            .find(|(field, _)| *field == name)
            .map_or("", |(_, text)| text)
    }

    pub fn label(&self, name: &str) -> &'static str {
        match name {
            "email" => "e-mail address",
            "password" => "password",
            "code" => "code",
            "firstName" => "first name",
            "lastName" => "last name",
            "phone" => "phone number",
            _ => "your entry",
        }
    }
}

#[derive(Debug)]
pub struct StatusPart {
    pub name: &'static str,
    pub works: bool,
    /// `Working`, `Not reachable`, …
    pub text: String,
}

#[derive(Debug, Template)]
#[template(path = "pages/start.html")]
pub struct Start<'a> {
    pub shell: &'a Shell,
    pub signed_in: bool,
    /// Address of the mailbox; empty unless mails are captured and a loopback peer asks.
    pub mailbox: &'a str,
    pub status: &'a [StatusPart],
    pub version: &'a str,
}

#[derive(Debug, Template)]
#[template(path = "pages/register.html")]
pub struct Register<'a> {
    pub shell: &'a Shell,
    pub csrf: &'a str,
    pub errors: &'a Errors,
    pub email: &'a str,
    pub first_name: &'a str,
    pub last_name: &'a str,
    pub phone: &'a str,
    /// Of a password, in characters.
    pub min: usize,
    pub max: usize,
}

impl Register<'_> {
    /// Whether anything stands in the optional part, or is wrong there.
    fn optional_open(&self) -> bool {
        let filled = [self.first_name, self.last_name, self.phone]
            .iter()
            .any(|value| !value.is_empty());
        filled
            || ["firstName", "lastName", "phone"]
                .iter()
                .any(|name| !self.errors.of(name).is_empty())
    }
}

#[derive(Debug, Template)]
#[template(path = "pages/verify.html")]
pub struct Verify<'a> {
    pub shell: &'a Shell,
    pub csrf: &'a str,
    pub errors: &'a Errors,
    pub notice: &'a str,
    /// As typed. Empty when this browser began no flow; then the reference is, too, and there is no resend form.
    pub email: &'a str,
    pub reference: &'a str,
    pub code: &'a str,
    /// Left of the code; 0: it has expired, and the page offers another one.
    pub minutes: i64,
    /// Seconds until asking again sends something; 0: now.
    pub resend_after: i64,
}

#[derive(Debug, Template)]
#[template(path = "pages/login.html")]
pub struct Login<'a> {
    pub shell: &'a Shell,
    pub csrf: &'a str,
    pub errors: &'a Errors,
    pub notice: &'a str,
    pub email: &'a str,
}

#[derive(Debug, Template)]
#[template(path = "pages/forgot.html")]
pub struct Forgot<'a> {
    pub shell: &'a Shell,
    pub csrf: &'a str,
    pub errors: &'a Errors,
    pub notice: &'a str,
    pub email: &'a str,
}

#[derive(Debug, Template)]
#[template(path = "pages/confirm.html")]
pub struct Confirm<'a> {
    pub shell: &'a Shell,
    pub csrf: &'a str,
    pub errors: &'a Errors,
    pub notice: &'a str,
    /// As in [`Verify`].
    pub email: &'a str,
    pub reference: &'a str,
    pub code: &'a str,
    pub minutes: i64,
    pub resend_after: i64,
}

#[derive(Debug, Template)]
#[template(path = "pages/reset.html")]
pub struct Reset<'a> {
    pub shell: &'a Shell,
    pub csrf: &'a str,
    pub errors: &'a Errors,
    /// Of the account, known from the confirm.
    pub email: &'a str,
    /// Left of the confirmed reset.
    pub minutes: i64,
    pub min: usize,
    pub max: usize,
}

#[derive(Debug, Template)]
#[template(path = "pages/done.html")]
pub struct Done<'a> {
    pub shell: &'a Shell,
}

#[derive(Debug)]
pub struct SessionRow {
    pub id: String,
    /// From [`words::device`].
    pub device: String,
    pub network: String,
    /// `now`, `5 minutes ago`, …
    pub seen: String,
    /// RFC 3339.
    pub seen_at: String,
    pub current: bool,
}

#[derive(Debug, Template)]
#[template(path = "pages/account.html")]
pub struct Account<'a> {
    pub shell: &'a Shell,
    pub csrf: &'a str,
    pub errors: &'a Errors,
    pub notice: &'a str,
    pub email: &'a str,
    pub name: &'a str,
    pub phone: &'a str,
    /// A date in words.
    pub since: &'a str,
    /// This one first.
    pub sessions: &'a [SessionRow],
}

#[derive(Debug, Template)]
#[template(path = "pages/error.html")]
pub struct ErrorPage<'a> {
    pub shell: &'a Shell,
    pub status: u16,
    /// Seconds; for 429.
    pub retry_after: u64,
    /// A form that this browser was not given, or too long ago.
    pub stale_form: bool,
    /// Path of the page to open again; empty: the start page.
    pub back: &'a str,
    pub request_id: &'a str,
}

impl ErrorPage<'_> {
    fn heading(&self) -> &'static str {
        match self.status {
            403 if self.stale_form => "This form is out of date",
            403 => "Not allowed",
            404 => "There is no such page",
            429 => "Too many tries",
            500.. => "Something broke on our side",
            _ => "That did not work",
        }
    }

    fn text(&self) -> String {
        match self.status {
            403 if self.stale_form => "Nothing was changed. Open the page again and fill it in once more. Cookies must be allowed.".to_owned(),
            403 => "This server does not accept requests like this one from where you are.".to_owned(),
            404 => "The address may be mistyped, or the page has moved.".to_owned(),
            429 => format!("Wait {}, then try again.", wait(self.retry_after)),
            500.. => "It is not your fault, and we have a record of it. Try again in a moment.".to_owned(),
            _ => "The request was not understood. Go back and try once more.".to_owned(),
        }
    }
}

#[derive(Debug)]
pub struct MailRow {
    pub id: String,
    pub to: String,
    pub subject: String,
    /// RFC 3339.
    pub sent_at: String,
    /// UTC, in words; the script shows local time.
    pub time: String,
    /// The one that is shown.
    pub current: bool,
}

#[derive(Debug)]
pub struct OpenMail {
    pub id: String,
    pub from: String,
    pub to: String,
    pub subject: String,
    pub sent_at: String,
    pub time: String,
    /// From [`words::code_in`]; empty: none.
    pub code: String,
    /// From [`words::text_parts`].
    pub text: Vec<TextPart>,
    /// Headers, an empty line, text.
    pub source: String,
}

#[derive(Debug, Template)]
#[template(path = "pages/mailbox.html")]
pub struct Mailbox<'a> {
    pub shell: &'a Shell,
    /// Newest first, already filtered.
    pub mails: &'a [MailRow],
    /// The filter; empty: all.
    pub to: &'a str,
    /// `?id=`, else the newest.
    pub open: Option<OpenMail>,
    /// `?id=` was given and found: narrow windows then show the mail instead of the list.
    pub chosen: bool,
    /// `text` | `html` | `source`
    pub view: &'a str,
}
