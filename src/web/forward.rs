//! A request for a downstream service: who is signed in, may they pass, and what the service is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::response::Response;
use http::Request;

use super::{Passage, limits, session as cookies};
use crate::accounts::session::{Credential, SignedIn, authenticate_passing, until_ended};
use crate::app::App;
use crate::clock::Millis;
use crate::config::edge::routes::{Auth, DownstreamErrors};
use crate::cores;
use crate::error::Error;
use crate::gateway::Edge;
use crate::gateway::proxy::{self, Context, Ended, Identity, Told};
use crate::gateway::route::Route;

/// How long one assertion is told again: it is good for 60 s, and a service should have most of that left.
const TOLD_AGAIN: Millis = 10_000;
/// Assertions kept by one core; beyond it stale ones are forgotten, or all, which costs each one signature.
const MOST_TOLD: usize = 2_000;

/// Assertions that were made a moment ago: signing one costs more than all the rest of a request. One map for each core.
#[derive(Debug)]
pub struct Assertions(Box<[Mutex<Kept>]>);

/// By session and route.
type Kept = HashMap<(usize, usize), Made>;

#[derive(Debug)]
struct Made {
    /// The very look-up that it was made from: a later one may have found another address. Its place in memory is the key, and held here
    /// it keeps that place.
    _caller: SignedIn,
    audience: String,
    at: Millis,
    told: Told,
}

impl Made {
    fn is_fresh(&self, now: Millis) -> bool {
        (0..TOLD_AGAIN).contains(&(now - self.at))
    }
}

impl Assertions {
    pub fn new(cores: usize) -> Self {
        Self((0..cores.max(1)).map(|_| Mutex::default()).collect())
    }

    /// What a route's service is told of a caller.
    fn identity(&self, app: &App, route: &Route, caller: &SignedIn) -> Told {
        let now = app.clock.now();
        let key = (Arc::as_ptr(&caller.session).addr(), route.index());
        let audience = &route.settings().name;
        let kept = &self.0[cores::current() % self.0.len()];
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = kept.get(&key)
            && made.audience == *audience
            && made.is_fresh(now)
        {
            return made.told.clone();
        }
        if kept.len() >= MOST_TOLD {
            kept.retain(|_, made| made.is_fresh(now));
        }
        if kept.len() >= MOST_TOLD {
            kept.clear();
        }
        let told = Arc::new(identity(app, audience, caller, now));
        let made = Made {
            _caller: caller.clone(),
            audience: audience.clone(),
            at: now,
            told: told.clone(),
        };
        kept.insert(key, made);
        told
    }
}

/// Forwards a request along a route.
pub async fn forward(
    app: &Arc<App>,
    assertions: &Assertions,
    edge: &Edge,
    route: &Route,
    request: &mut Request<Body>,
    passage: &mut Passage,
) -> Result<Response, Error> {
    let credential = match route.settings().auth {
        Auth::None => Credential::None,
        Auth::Customer | Auth::Optional => cookies::credential(request.headers()),
    };
    let caller = match (
        route.settings().auth,
        authenticate_passing(app, &credential).await,
    ) {
        (_, Ok(caller)) => Some(caller),
        (Auth::None | Auth::Optional, Err(Error::Unauthorized)) => None,
        (_, Err(error)) => return Err(error),
    };
    if let Some(caller) = &caller {
        limits::charge_signed_in(app, &passage.asked, caller)?;
    }
    let context = Context {
        version: passage.version,
        client: passage.address,
        request_id: &passage.request_id,
        random: &app.random,
        scheme: app.config.public_scheme(),
        identity: caller
            .as_ref()
            .map(|caller| assertions.identity(app, route, caller)),
        consumed_authorization: caller.is_some() && matches!(credential, Credential::Bearer(_)),
        underscores: app.config.gateway.underscore_headers,
        precise: app.config.gateway.downstream_errors == DownstreamErrors::Precise,
        gate: Some(passage.gate.clone()),
        ended: caller.is_some().then(|| ended(app, credential)),
    };
    let upstreams = &edge.upstreams[route.index()];
    let trail = &mut passage.trail;
    proxy::forward(upstreams, route, &app.clock, request, context, trail).await
}

fn identity(app: &App, audience: &str, caller: &SignedIn, now: Millis) -> Identity {
    let (account, session) = (&caller.account, &caller.session);
    Identity {
        account_id: account.id.clone(),
        email: account.email.clone(),
        role: "customer",
        assertion: app
            .tokens
            .assertion(&session.id, &account.id, &account.email, audience, now),
    }
}

fn ended(app: &Arc<App>, credential: Credential) -> Ended {
    let app = app.clone();
    Ended(Arc::new(move || {
        Box::pin(until_ended(app.clone(), credential.clone()))
    }))
}
