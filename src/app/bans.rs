//! The rows behind the gateway's list of bans: a ban survives a restart, and holds on every node that has the same store.
//!
//! One round ([`step`]) writes down whom the gateway reports, and reads the list again. A round that fails changes nothing: who
//! is on the list stays there until his time is over.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::App;
use crate::clock::{Millis, rfc3339};
use crate::config::edge::bans::BanMode;
use crate::error::Error;
use crate::gateway::ban::{Kind, Standing};
use crate::gateway::client_ip::{self, Network};
use crate::store::db::Tx;
use crate::store::{audit, bans, sessions};

/// The `kind` of a row.
const BAN: &str = "ban";
const SLOW: &str = "slow";
/// The `why` of a ban that no rule began.
const OPERATOR: &str = "operator";

/// Why an operator's ban can't begin.
#[derive(Debug)]
pub enum Refusal {
    /// `guard.bans.mode` is off.
    Off,
    /// A proxy that we trust is in that network: its ban would be everybody's.
    Proxy,
    /// Another began at the same moment.
    Late,
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// One round.
///
/// # Errors
/// A database that does not answer.
pub async fn step(app: &App) -> Result<(), Error> {
    let offenders = app.bans.offenders();
    if app.edge.load().bans.mode() != BanMode::Off {
        for (network, rule) in offenders {
            ban_for_denials(app, network, &rule).await?;
        }
    }
    load(app).await
}

/// Until `stop` turns true: a round when somebody is reported, and whenever `guard.bans.refresh` is over.
pub async fn run(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    loop {
        if let Err(error) = step(&app).await {
            tracing::error!(%error, "the list of bans can't be kept up to date");
        }
        let every = app.edge.load().bans.settings().refresh.std();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = tokio::time::timeout(every, app.bans.changed.notified()) => {}
        }
    }
}

/// Reads the list.
pub(super) async fn load(app: &App) -> Result<(), Error> {
    let edge = app.edge.load_full();
    let most = i64::from(edge.bans.settings().max_banned);
    let mut list = HashMap::new();
    if edge.bans.mode() != BanMode::Off {
        let rows = bans::in_force(&mut app.db.read().await?, app.clock.now(), most).await?;
        for row in rows {
            let kind = if row.kind == SLOW {
                Kind::Slowed
            } else {
                Kind::Banned
            };
            let network = row.network.parse();
            let network: Network =
                network.map_err(|_| Error::internal("a row of `bans` names no client network"))?;
            // It may have become a proxy's after the ban began.
            if !is_proxys(app, network) {
                let until = row.until_at;
                list.insert(network, Standing { kind, until });
            }
        }
    }
    let slowed = list.values().filter(|it| it.kind == Kind::Slowed).count();
    app.metrics.set_bans(list.len() - slowed, slowed);
    app.bans.replace(list);
    Ok(())
}

/// Whether a proxy that we trust is in a network.
pub fn is_proxys(app: &App, network: Network) -> bool {
    client_ip::holds_trusted(&app.config.server.trusted_proxies, network)
}

async fn ban_for_denials(app: &App, network: Network, rule: &str) -> Result<(), Error> {
    let edge = app.edge.load_full();
    let settings = edge.bans.settings();
    let (name, now) = (network.to_string(), app.clock.now());
    let mut tx = app.db.begin().await?;
    let before = bans::find(&mut tx, &name).await?;
    if before.as_ref().is_some_and(|ban| ban.until_at > now) {
        // On another node, or a moment ago.
        return Ok(());
    }
    let since = now - settings.signed_in_within.0;
    let (kind, verdict) = if sessions::signed_in_from(&mut tx, &name, since).await? {
        (SLOW, "begun_slow")
    } else {
        (BAN, "begun_ban")
    };
    let times = next(before.as_ref(), settings.forget_after.0, now);
    let new = bans::Ban {
        network: name,
        kind: kind.to_owned(),
        times,
        why: rule.to_owned(),
        began_at: now,
        until_at: now + settings.length(times),
    };
    if !bans::put(&mut tx, &new, before.map(|ban| ban.until_at)).await? {
        return Ok(());
    }
    bans::bound(&mut tx, i64::from(settings.max_banned)).await?;
    audit_begun(app, &mut tx, &new, "system").await?;
    tx.commit().await?;
    app.metrics.count_ban(verdict);
    Ok(())
}

/// The so many-th in a row a ban is that begins now.
fn next(before: Option<&bans::Ban>, forget_after: Millis, now: Millis) -> i64 {
    before
        .filter(|ban| ban.until_at + forget_after > now)
        .map_or(1, |ban| ban.times.saturating_add(1))
}

/// Bans a network for so many milliseconds, whether or not it is on the list. By an operator.
///
/// # Errors
/// Why it can't be.
pub async fn add(app: &App, network: Network, length: Millis) -> Result<bans::Ban, Refusal> {
    let edge = app.edge.load_full();
    let settings = edge.bans.settings();
    if settings.mode == BanMode::Off {
        return Err(Refusal::Off);
    }
    if is_proxys(app, network) {
        return Err(Refusal::Proxy);
    }
    let (name, now) = (network.to_string(), app.clock.now());
    let mut tx = app.db.begin().await?;
    let before = bans::find(&mut tx, &name).await?;
    let new = bans::Ban {
        network: name,
        kind: BAN.to_owned(),
        times: next(before.as_ref(), settings.forget_after.0, now),
        why: OPERATOR.to_owned(),
        began_at: now,
        until_at: now + length,
    };
    if !bans::put(&mut tx, &new, before.map(|ban| ban.until_at)).await? {
        return Err(Refusal::Late);
    }
    bans::bound(&mut tx, i64::from(settings.max_banned)).await?;
    audit_begun(app, &mut tx, &new, "operator").await?;
    tx.commit().await?;
    Ok(new)
}

/// Forgets a network, its earlier bans included. False if nothing was known against it. By an operator.
///
/// # Errors
/// A database that does not answer.
pub async fn lift(app: &App, network: Network) -> Result<bool, Error> {
    let name = network.to_string();
    let mut tx = app.db.begin().await?;
    if !bans::delete(&mut tx, &name).await? {
        return Ok(false);
    }
    write_audit(app, &mut tx, "ban_lifted", "operator", name, None).await?;
    tx.commit().await?;
    Ok(true)
}

async fn audit_begun(app: &App, tx: &mut Tx, ban: &bans::Ban, actor: &str) -> Result<(), Error> {
    let (kind, times, why) = (&ban.kind, ban.times, &ban.why);
    let until = rfc3339(ban.until_at);
    let detail = format!("{kind} {times} in a row, until {until}, because of {why}");
    let network = ban.network.clone();
    write_audit(app, tx, "ban_begun", actor, network, Some(detail)).await
}

async fn write_audit(
    app: &App,
    tx: &mut Tx,
    event: &'static str,
    actor: &str,
    network: String,
    detail: Option<String>,
) -> Result<(), Error> {
    app.metrics.count_event(event);
    let entry = audit::Entry {
        id: app.id(),
        at: app.clock.now(),
        event: event.to_owned(),
        account_id: None,
        actor: actor.to_owned(),
        network: Some(network),
        request_id: None,
        detail,
    };
    audit::insert(tx, &entry).await
}
