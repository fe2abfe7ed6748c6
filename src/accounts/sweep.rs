//! Forgetting on time: retention is a promise too.

use tokio::sync::watch;

use crate::app::App;
use crate::error::Error;
use crate::store::{resets, sweep, verifications};

/// One round. The number of rows that went.
pub async fn step(app: &App) -> Result<u64, Error> {
    let now = app.clock.now();
    let keep = &app.config.accounts.retention;
    let session = &app.config.accounts.session;
    let before = sweep::Before {
        requests: now - keep.requests.0,
        registrations: now - keep.registrations.0,
        sessions: now - keep.sessions.0,
        flows: now - keep.flows.0,
        mails: now - keep.mails.0,
        audit: now - keep.audit.0,
        known_devices: now - session.device_life.0,
        known_networks: now - session.known_network_life.0,
        bans: now - app.edge.load().bans.settings().forget_after.0,
    };
    let mut tx = app.db.begin().await?;
    resets::expire_overdue(&mut tx, now).await?;
    verifications::expire_overdue(&mut tx, now).await?;
    tx.commit().await?;
    let rows = sweep::delete_old(&app.db, &before).await?;
    let mut tx = app.db.begin().await?;
    let bounded = sweep::bound_requests(&mut tx, keep.max_requests).await?;
    let guesses = sweep::bound_guesses(&mut tx, keep.max_requests).await?;
    tx.commit().await?;
    Ok(rows + bounded + guesses)
}

/// Until `stop` turns true. A failed round is logged and tried again at the next.
pub async fn run(app: &App, mut stop: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(app.config.accounts.retention.sweep_every.std());
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = every.tick() => {}
        }
        match step(app).await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "swept"),
            Err(error) => tracing::error!(%error, "sweeping failed"),
        }
    }
}
