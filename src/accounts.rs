//! Customer accounts: who may sign in, and how they get back in.
//!
//! ```text
//! account:  (none) ──register──▶ unverified ──verify or reset──▶ verified        locked/unlocked: an operator's act alone
//! reset:    (none) ──forgot──▶ started ──confirm──▶ confirmed ──reset──▶ consumed
//!                                 └──── time, a sibling's confirm, … ────┴──▶ expired
//! ```
//!
//! Every flow is one function in one file, top to bottom: validate, slow work, begin, state + mail + audit, commit.

use crate::app::App;
use crate::clock::Millis;
use crate::error::Error;
use crate::keys::Key;
use crate::store;
use crate::store::db::Tx;

pub mod budgets;
pub mod caused_mail;
pub mod email;
pub mod lifecycle;
pub mod login;
pub mod password;
pub mod register;
pub mod reset_password;
pub mod session;
pub mod sweep;

/// The longest part of a User-Agent that is kept, in characters.
const USER_AGENT_KEPT: usize = 256;

/// A customer account, as it is stored.
pub type Account = store::accounts::Account;

/// Who is calling: what the front door found out, once.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// IPv4 address or IPv6 /64.
    pub network: String,
    /// The peer is on this machine.
    pub loopback: bool,
    /// The request carried forwarding headers that nobody vouches for.
    pub forwarded: bool,
    pub user_agent: String,
    /// The `cxDevice` cookie.
    pub device: Option<String>,
    pub request_id: String,
    /// The call came from our own hosted pages.
    pub page: bool,
}

impl Client {
    /// What two calls of one client share. `None` without a User-Agent.
    pub fn hash(&self, key: &Key) -> Option<Vec<u8>> {
        (!self.user_agent.is_empty()).then(|| key.client_hash(&self.network, &self.user_agent))
    }

    /// The User-Agent as it is kept and shown: printable, bounded.
    pub fn shown_agent(&self) -> String {
        let printable = self.user_agent.chars().filter(|c| !c.is_control());
        printable.take(USER_AGENT_KEPT).collect()
    }
}

/// Writes an audit row in the same transaction as what it tells of.
pub async fn audit(
    app: &App,
    tx: &mut Tx,
    event: &'static str,
    account_id: Option<&str>,
    client: Option<&Client>,
    detail: Option<&str>,
) -> Result<(), Error> {
    app.metrics.count_event(event);
    let entry = store::audit::Entry {
        id: app.id(),
        at: app.clock.now(),
        event: event.to_owned(),
        account_id: account_id.map(str::to_owned),
        actor: if client.is_some() {
            "client"
        } else {
            "operator"
        }
        .to_owned(),
        network: client.map(|client| client.network.clone()),
        request_id: client.map(|client| client.request_id.clone()),
        detail: detail.map(str::to_owned),
    };
    store::audit::insert(tx, &entry).await
}

/// Whole seconds until `at`, at least `least`.
fn seconds_until(at: Millis, now: Millis, least: i64) -> i64 {
    ((at - now + 999) / 1000).max(least)
}
