//! Escalating bans: a network that the guard denies again and again is kept out for a while, each time longer.
//!
//! A ban must not be a weapon in the hands of who can make others send requests. So only the guard's denials count, and only those
//! of requests that no foreign page can have caused ([`tells_of_its_network`]); a proxy's network is never banned; and where a
//! customer signed in lately, the network is slowed instead ([`Kind::Slowed`]).
//!
//! The list here is a copy of what is stored. Who keeps the rows takes the [`Bans::offenders`] and puts a new list in place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::Notify;

use crate::clock::Millis;
use crate::config::edge::bans::{BanMode, BanSettings};
use crate::gateway::client_ip::Network;
use crate::gateway::limit::Key;
use crate::gateway::limit::bucket::Bucket;
use crate::gateway::limit::counters::Counters;
use crate::gateway::limit::gcra::{Decision, Quota};

/// Most offenders that wait for being written down. Who finds no room is found again with the next denials.
const MAX_OFFENDERS: usize = 1_000;

/// Why a network is on the list, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What becomes of its requests.
    pub kind: Kind,
    /// From then on it is as if it were not there.
    pub until: Millis,
}

/// What becomes of the requests of a network on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Refused.
    Banned,
    /// Served at a strict rate: customers are among them.
    Slowed,
}

/// The networks that are kept out, and those that should be. Outlives a reload.
#[derive(Debug, Default)]
pub struct Bans {
    list: ArcSwap<HashMap<Network, Standing>>,
    /// With the guard's rule that denied them last.
    offenders: Mutex<HashMap<Network, Box<str>>>,
    /// Rung when there is an offender to be written down, and when the settings have changed.
    pub changed: Notify,
}

impl Bans {
    /// How a network stands; none if nothing is known against it. Takes no lock and allocates nothing.
    pub fn standing(&self, network: Network, now: Millis) -> Option<Standing> {
        let list = self.list.load();
        if list.is_empty() {
            return None;
        }
        list.get(&network)
            .filter(|standing| standing.until > now)
            .copied()
    }

    /// Puts what is stored in place of what was known.
    pub fn replace(&self, list: HashMap<Network, Standing>) {
        self.list.store(Arc::new(list));
    }

    /// Reports a network that `rule` has denied too often.
    pub fn report(&self, network: Network, rule: &str) {
        let mut offenders = self.lock();
        if offenders.len() < MAX_OFFENDERS || offenders.contains_key(&network) {
            offenders.insert(network, rule.into());
        }
        drop(offenders);
        self.changed.notify_one();
    }

    /// Takes the networks that were reported, with the rule that denied each last.
    pub fn offenders(&self) -> HashMap<Network, Box<str>> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Network, Box<str>>> {
        self.offenders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings in force. Immutable: a reload makes a new one over the same counters.
#[derive(Debug)]
pub struct Policy {
    settings: BanSettings,
    denials: Bucket,
    slow: Bucket,
}

impl Policy {
    /// Compiles validated settings.
    pub fn compile(settings: &BanSettings, counters: &Arc<Counters>) -> Self {
        let window_ns = settings.window.0.unsigned_abs() * 1_000_000;
        // The last of so many denials at once is the one that finds no room.
        let denials = Quota::new(
            u64::from(settings.denials),
            window_ns,
            settings.denials.saturating_sub(1),
        );
        let slow = Quota::new(
            settings.slow_count,
            settings.slow_period_ns,
            settings.slow_burst,
        );
        Self {
            settings: settings.clone(),
            denials: Bucket::new("bans denials", denials, counters),
            slow: Bucket::new("bans slow", slow, counters),
        }
    }

    /// What they were compiled from.
    pub fn settings(&self) -> &BanSettings {
        &self.settings
    }

    /// What becomes of those who are on the list.
    pub fn mode(&self) -> BanMode {
        self.settings.mode
    }

    /// Counts a denial. True when it was one too many; then the count begins anew.
    pub fn is_too_many(&self, network: Network, now_ns: u64) -> bool {
        let key = Key::Network(network);
        let too_many = !self.denials.take(key, now_ns).allowed;
        if too_many {
            self.denials.forget(key, now_ns);
        }
        too_many
    }

    /// Takes a request from what a slowed network may do.
    pub fn slow(&self, network: Network, now_ns: u64) -> Decision {
        self.slow.take(Key::Network(network), now_ns)
    }
}

/// Whether a denied request tells anything about the network that it came from, or may be the work of a page elsewhere: one that
/// shows a picture `https://here/.env` makes each of its visitors ask for it.
///
/// `Sec-Fetch-Site`, which pages can't set, says where a browser's request came from: what is not our own pages' or the visitor's
/// own doing tells nothing. Browsers send it to https origins and to loopback, Safari from 16.4 (2023) on. Without it, whatever looks
/// like a browser tells nothing either: a User-Agent that begins as every browser's does, and an `Accept-Language`, which Fetch
/// (5.5, HTTP-network-or-cache fetch) has them send with each request, and which tools that call themselves browsers seldom do.
pub fn tells_of_its_network(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter().peekable();
    if sites.peek().is_some() {
        // A picture on a page of ours may be what some other visitor put there.
        let embedded = headers
            .get_all("sec-fetch-dest")
            .iter()
            .any(|dest| !matches!(dest.as_bytes(), b"document" | b"empty"));
        let own = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
        return !embedded && sites.all(own);
    }
    let agent = headers
        .get(header::USER_AGENT)
        .map_or(&b""[..], HeaderValue::as_bytes);
    !(agent.starts_with(b"Mozilla/") && headers.contains_key(header::ACCEPT_LANGUAGE))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::edge::bans::RawBans;

    const S: u64 = 1_000_000_000;

    fn policy(text: &str) -> Policy {
        let raw: RawBans = toml::from_str(text).unwrap();
        let counters = Arc::new(Counters::new(1_000, [1; 16]));
        Policy::compile(&raw.validate(&mut Vec::new()), &counters)
    }

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_of_so_many_at_once_is_one_too_many() {
        for denials in [2, 3, 20] {
            let policy = policy(&format!("denials = {denials}"));
            let ada = network("198.51.100.7");
            for round in 0..2 {
                for nth in 1..denials {
                    assert!(!policy.is_too_many(ada, 1_000 * S), "{round} {nth}");
                }
                assert!(!policy.is_too_many(network("198.51.100.8"), 1_000 * S));
                assert!(policy.is_too_many(ada, 1_000 * S), "{round}");
                policy
                    .denials
                    .forget(Key::Network(network("198.51.100.8")), 1_000 * S);
            }
        }
    }

    #[test]
    fn who_is_denied_seldom_is_never_one_too_many() {
        let policy = policy("denials = 20\nwindow = \"10min\"");
        let often = (0..1_000).any(|nth| policy.is_too_many(network("::1"), nth * 30 * S));
        assert!(!often, "20 in 10 minutes, evenly");
        let oftener = (0..1_000).any(|nth| policy.is_too_many(network("::2"), nth * 29 * S));
        assert!(oftener, "a little more than that");
    }

    #[test]
    fn offenders_are_bounded_and_taken_once() {
        let bans = Bans::default();
        for nth in 0..2_000_u32 {
            bans.report(
                Network::from(std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(nth))),
                "r",
            );
        }
        assert_eq!(bans.offenders().len(), MAX_OFFENDERS);
        assert_eq!(bans.offenders().len(), 0);
    }

    #[test]
    fn what_a_foreign_page_can_cause_tells_nothing() {
        const SAFARI: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 15_6 like Mac OS X)";
        for (lines, tells) in [
            (&[][..], true),
            (&[("user-agent", "python-requests/2.32")], true),
            (&[("user-agent", "curl/8"), ("accept-language", "de")], true),
            (&[("user-agent", "Mozilla/5.0 zgrab/0.x")], true),
            (&[("user-agent", SAFARI), ("accept-language", "de")], false),
            (&[("user-agent", SAFARI), ("accept-language", "")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "something new")], false),
            // What a visitor has put on a page of ours.
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-dest", "image"),
                ],
                false,
            ),
            (
                &[("sec-fetch-site", "none"), ("sec-fetch-dest", "document")],
                true,
            ),
            (
                &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
                false,
            ),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("user-agent", SAFARI),
                    ("accept-language", "de"),
                ],
                true,
            ),
            (
                &[
                    ("sec-fetch-site", "none"),
                    ("user-agent", SAFARI),
                    ("accept-language", "de"),
                ],
                true,
            ),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(tells_of_its_network(&headers), tells, "{lines:?}");
        }
    }
}
