//! A request for a downstream service: who is signed in, may they pass, and what the service is told.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::Request;

use super::{Passage, limits, session as cookies};
use crate::accounts::session::{Credential, SignedIn, authenticate_passing, until_ended};
use crate::app::App;
use crate::config::edge::routes::{Auth, DownstreamErrors};
use crate::error::Error;
use crate::gateway::Edge;
use crate::gateway::proxy::{self, Context, Ended, Identity};
use crate::gateway::route::Route;

/// Forwards a request along a route.
pub async fn forward(
    app: &Arc<App>,
    edge: &Edge,
    route: &Route,
    request: Request<Body>,
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
        client: passage.address,
        request_id: &passage.request_id,
        trail: &mut passage.trail,
        random: &app.random,
        scheme: app.config.public_scheme(),
        identity: caller.as_ref().map(|caller| identity(app, route, caller)),
        consumed_authorization: caller.is_some() && matches!(credential, Credential::Bearer(_)),
        precise: app.config.gateway.downstream_errors == DownstreamErrors::Precise,
        gate: Some(passage.gate.clone()),
        ended: caller.is_some().then(|| ended(app, credential)),
    };
    let upstreams = &edge.upstreams[route.index()];
    proxy::forward(upstreams, route, &app.clock, request, context).await
}

fn identity(app: &App, route: &Route, caller: &SignedIn) -> Identity {
    let (account, session) = (&caller.account, &caller.session);
    let now = app.clock.now();
    let audience = &route.settings().name;
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
