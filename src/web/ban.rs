//! What a ban makes of a request, before anything else is done for it; and which refusals count towards one.

use std::net::IpAddr;

use http::HeaderMap;

use super::{Passage, session};
use crate::accounts::session::knows_device;
use crate::app::{App, bans};
use crate::config::edge::bans::BanMode;
use crate::error::Error;
use crate::gateway::Edge;
use crate::gateway::ban::{Kind, tells_of_its_network};
use crate::gateway::client_ip::Network;

/// Refuses a request of a banned network, and holds a slowed one to its rate.
///
/// A device that somebody signed in with before is slowed where others are banned, so that no stranger in the same network keeps
/// the owner of an account out of it. Whether a cookie is such a device's is looked up no oftener than that rate.
///
/// # Errors
/// [`Error::AccessDenied`], [`Error::TooManyRequests`]
pub async fn judge(
    app: &App,
    edge: &Edge,
    passage: &mut Passage,
    headers: &HeaderMap,
) -> Result<(), Error> {
    if edge.bans.mode() == BanMode::Off {
        return Ok(());
    }
    let (network, now) = (Network::from(passage.address), app.clock.now());
    let Some(standing) = app.bans.standing(network, now) else {
        return Ok(());
    };
    if edge.bans.mode() == BanMode::Observe {
        app.metrics.count_ban("observed");
        passage.why = Some("ban-observed".into());
        return Ok(());
    }
    passage.why = Some("ban".into());
    let refused = || {
        app.metrics.count_ban("refused");
        Err(Error::AccessDenied)
    };
    let device = match (standing.kind, session::cookie(headers, session::DEVICE)) {
        (Kind::Slowed, _) => None,
        (Kind::Banned, session::Sent::Once(device)) => Some(device),
        (Kind::Banned, _) => return refused(),
    };
    let decision = edge.bans.slow(network, now as u64 * 1_000_000);
    if !decision.allowed {
        app.metrics.count_ban("slowed");
        return Err(Error::TooManyRequests {
            retry_after: u64::from(decision.retry_after_s).max(1),
            fields: None,
        });
    }
    if let Some(device) = device
        && !Box::pin(knows_device(app, device)).await?
    {
        return refused();
    }
    passage.why = None;
    Ok(())
}

/// Counts a denial by the guard's `rule` towards a ban, if it tells anything about the network that it came from.
pub fn count(app: &App, edge: &Edge, headers: &HeaderMap, address: IpAddr, rule: &str) {
    if edge.bans.mode() == BanMode::Off || !tells_of_its_network(headers) {
        return;
    }
    let (network, now) = (Network::from(address), app.clock.now());
    // Who is on the list already, slowed or only observed, gets no further ban before this one is over.
    if bans::is_proxys(app, network) || app.bans.standing(network, now).is_some() {
        return;
    }
    app.metrics.count_ban("counted");
    if edge.bans.is_too_many(network, now as u64 * 1_000_000) {
        app.bans.report(network, rule);
    }
}
