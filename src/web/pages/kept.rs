//! What the pages keep in a browser between two requests: sealed cookies under `Path=/account`.
//!
//! A seal says that we wrote it, for this cookie and no other. It is no lock: whoever holds the browser can read what is in it.

use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::clock::Millis;
use crate::keys::Key;
use crate::random::same;
use crate::web::session;

pub const PATH: &str = "/account";

/// The random value that a browser's forms are bound to.
pub const BROWSER: &str = "cxForm";
/// Seconds from the last page on; a form older than that is out of date.
pub const BROWSER_LIFE: i64 = 86_400;

/// A cookie with a value of one type in it.
#[derive(Debug)]
pub struct Slot<T> {
    name: &'static str,
    same_site: &'static str,
    seconds: i64,
    holds: PhantomData<T>,
}

/// The recovery that was begun here. Lax: it must be there when somebody comes from the mail's link.
pub const RECOVERY: Slot<Flow> = Slot::new("cxFlow", "Lax", 3600);
/// The registration that was begun here.
pub const REGISTRATION: Slot<Flow> = Slot::new("cxVerify", "Lax", 86_400);
/// The proof of a confirmed reset. It outlives the reset, to be able to say that the time is over.
pub const GRANT: Slot<Grant> = Slot::new("cxGrant", "Strict", 3600);
/// What the next page has to say.
pub const TOLD: Slot<Told> = Slot::new("cxTold", "Lax", 60);
/// A password was changed here.
pub const DONE: Slot<bool> = Slot::new("cxDone", "Lax", 600);

/// A code that was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Flow {
    /// As typed.
    pub email: String,
    pub reference: String,
    pub expires_at: Millis,
    pub resend_at: Millis,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Grant {
    /// Of the account.
    pub email: String,
    pub grant: String,
    pub until: Millis,
    /// Of the flow that it came from.
    pub reference: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Told {
    /// The page that is to say it.
    pub page: String,
    pub text: String,
    /// To begin with in its form; may be empty.
    pub email: String,
}

impl<T> Slot<T> {
    const fn new(name: &'static str, same_site: &'static str, seconds: i64) -> Self {
        Self {
            name,
            same_site,
            seconds,
            holds: PhantomData,
        }
    }
}

impl<T: Serialize + DeserializeOwned> Slot<T> {
    /// The line that keeps a value.
    pub fn keep(&self, app: &App, value: &T) -> String {
        let plain = serde_json::to_vec(value).expect("plain data has a JSON form");
        let seal = seal(app.keys.current(), self.name, &plain);
        let value = format!("{}.{seal}", URL_SAFE_NO_PAD.encode(plain));
        session::line(app, self.name, &value, self.same_site, PATH, self.seconds)
    }

    /// The line that forgets it.
    pub fn forget(&self, app: &App) -> String {
        session::line(app, self.name, "", self.same_site, PATH, 0)
    }

    /// The value, if it is there once and we sealed it.
    pub fn read(&self, app: &App, headers: &http::HeaderMap) -> Option<T> {
        let session::Sent::Once(sent) = session::cookie(headers, self.name) else {
            return None;
        };
        let (plain, sealed) = sent.split_once('.')?;
        let plain = URL_SAFE_NO_PAD.decode(plain).ok()?;
        is_seal(app, self.name, &plain, sealed).then_some(())?;
        serde_json::from_slice(&plain).ok()
    }
}

/// The token of the forms of one browser.
pub fn form_token(app: &App, browser: &str) -> String {
    seal(app.keys.current(), BROWSER, browser.as_bytes())
}

pub fn is_form_token(app: &App, browser: &str, sent: &str) -> bool {
    is_seal(app, BROWSER, browser.as_bytes(), sent)
}

fn seal(key: &Key, purpose: &str, data: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(key.page_seal(purpose, data))
}

fn is_seal(app: &App, purpose: &str, data: &[u8], sent: &str) -> bool {
    let Ok(sent) = URL_SAFE_NO_PAD.decode(sent) else {
        return false;
    };
    app.keys
        .iter()
        .any(|key| same(&key.page_seal(purpose, data), &sent))
}
