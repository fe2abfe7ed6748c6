//! Limits that need more than the network: by session and account once a token is checked, by address once a body is parsed.

use axum::extract::OriginalUri;
use http::{HeaderMap, Method, Request, Uri};

use crate::accounts::session::SignedIn;
use crate::app::App;
use crate::config::edge::limits::KeyKind;
use crate::error::Error;
use crate::gateway::Edge;
use crate::gateway::limit::{Key, Outcome, RuleId};

/// What was asked for, as the rules see it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    uri: Uri,
}

impl Asked {
    /// The path is the whole one, also within a nested router, which sees only the rest of it.
    pub fn of<B>(request: &Request<B>) -> Self {
        let original = request.extensions().get::<OriginalUri>();
        let uri = original.map_or(request.uri(), |original| &original.0);
        Self {
            method: request.method().clone(),
            uri: uri.clone(),
        }
    }

    pub fn path(&self) -> &str {
        self.uri.path()
    }
}

/// Charges the rules whose keys `key_of` knows.
///
/// # Errors
/// [`Error::TooManyRequests`] with the `RateLimit` fields.
pub fn charge<'k>(
    app: &App,
    edge: &Edge,
    asked: &Asked,
    key_of: impl Fn(KeyKind) -> Option<Key<'k>>,
) -> Result<Outcome, Error> {
    let rules = edge.limits.rules_for(&asked.method, asked.path());
    let now = app.clock.now() as u64 * 1_000_000;
    let observed = |id: RuleId| edge.limit_hits.count(id.index());
    let outcome = edge.limits.check_all(rules, key_of, now, observed);
    let Some(refusing) = outcome.rule.filter(|_| !outcome.decision.allowed) else {
        return Ok(outcome);
    };
    edge.limit_hits.count(refusing.index());
    let mut fields = HeaderMap::new();
    edge.limits.put_fields(&mut fields, &outcome);
    let retry_after = u64::from(outcome.decision.retry_after_s).max(1);
    Err(Error::TooManyRequests {
        retry_after,
        fields: Some(Box::new(fields)),
    })
}

/// Charges the rules by session and by account.
///
/// # Errors
/// [`Error::TooManyRequests`]
pub fn charge_signed_in(app: &App, asked: &Asked, caller: &SignedIn) -> Result<(), Error> {
    charge(app, &app.edge.load(), asked, |kind| match kind {
        KeyKind::Session => Some(Key::Session(&caller.session.id)),
        KeyKind::Account => Some(Key::Account(&caller.account.id)),
        _ => None,
    })
    .map(|_| ())
}

/// Charges the rules by address.
///
/// # Errors
/// [`Error::TooManyRequests`]
pub fn charge_address(app: &App, asked: &Asked, canonical: &str) -> Result<(), Error> {
    charge(app, &app.edge.load(), asked, |kind| match kind {
        KeyKind::Address => Some(Key::Address(canonical)),
        _ => None,
    })
    .map(|_| ())
}
