//! The budget of mails that a stranger can cause to one address (contract, "Budgets"). It looks the same whether anybody has the address.

use super::Client;
use crate::app::App;
use crate::error::Error;
use crate::keys::Key;
use crate::store::db::Tx;
use crate::store::requests;

/// Which of the two counts a mail falls under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedAs {
    Recovery,
    Other,
}

impl CountedAs {
    fn name(self) -> &'static str {
        match self {
            Self::Recovery => "recovery",
            Self::Other => "other",
        }
    }
}

/// Takes one mail from the budget of an address. False when it is spent: the answer stays the same, nothing is sent.
pub async fn take(
    app: &App,
    tx: &mut Tx,
    counted_as: CountedAs,
    canonical: &str,
    client: &Client,
) -> Result<bool, Error> {
    let now = app.clock.now();
    let key = app.keys.current();
    let address_hash = key.address_hash(canonical);
    let known = is_known(app, tx, key, canonical, client).await?;
    let caused =
        requests::caused(tx, &address_hash, counted_as.name(), &client.network, now).await?;
    let kept = match counted_as {
        CountedAs::Recovery => app.config.accounts.budgets.mails_kept_for_known,
        CountedAs::Other => 0,
    };
    if !allowed(&app.config.accounts.budgets, &caused, kept, known) {
        return Ok(false);
    }
    requests::count(
        tx,
        &app.id(),
        &address_hash,
        counted_as.name(),
        &client.network,
        known,
        now,
    )
    .await?;
    Ok(true)
}

/// Strangers share what is not kept; the known have the kept ones for themselves, whatever strangers did.
fn allowed(
    budgets: &crate::config::Budgets,
    caused: &requests::Caused,
    kept: i64,
    known: bool,
) -> bool {
    let unknown_day = caused.day - caused.known_day;
    let within = caused.network_hour < budgets.mails_network_hour
        && caused.network_day < budgets.mails_network_day
        && caused.hour < budgets.mails_address_hour
        && caused.day < budgets.mails_address_day;
    if known {
        caused.known_day < kept || within
    } else {
        within && unknown_day < budgets.mails_address_day - kept
    }
}

/// A device with a cookie of an earlier sign-in to this account, or a network that it signed in from lately.
async fn is_known(
    app: &App,
    tx: &mut Tx,
    key: &Key,
    canonical: &str,
    client: &Client,
) -> Result<bool, Error> {
    let device = client
        .device
        .as_deref()
        .map(|device| key.device_hash(device));
    let since = app.clock.now() - app.config.accounts.session.known_network_life.0;
    let known =
        requests::known_by(tx, canonical, device.as_deref(), &client.network, since).await?;
    Ok(known.is_some())
}
