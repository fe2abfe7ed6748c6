//! Sessions that were looked up a moment ago, so that a busy client does not cost a query a request.
//!
//! A session ended by this process is forgotten at once; one ended by another node within `FRESH`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::accounts::Account;
use super::sessions::Session;
use crate::clock::Millis;

/// How long a look-up is believed (attacks S-01: 401 within 1 s on every node).
const FRESH: Millis = 900;
/// Sessions kept; beyond it all are forgotten, which costs each one query.
const MOST: usize = 50_000;

#[derive(Debug, Default)]
pub struct SessionCache(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Rises whenever something ends: a look-up that began before must not be remembered after.
    generation: u64,
    found: HashMap<[u8; 32], (Millis, Arc<Account>, Arc<Session>)>,
}

impl SessionCache {
    /// What was found for a credential (by its digest) a moment ago.
    pub fn get(&self, digest: &[u8; 32], now: Millis) -> Option<(Arc<Account>, Arc<Session>)> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, account, session) = inner.found.get(digest)?;
        (now - at < FRESH).then(|| (account.clone(), session.clone()))
    }

    /// To be asked for before a look-up, and handed to [`SessionCache::put`] after it.
    pub fn generation(&self) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .generation
    }

    pub fn put(
        &self,
        generation: u64,
        digest: [u8; 32],
        now: Millis,
        account: &Arc<Account>,
        session: &Arc<Session>,
    ) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.generation != generation {
            return;
        }
        if inner.found.len() >= MOST {
            inner.found.clear();
        }
        inner
            .found
            .insert(digest, (now, account.clone(), session.clone()));
    }

    /// Something ended: after its commit, before its answer. It is rare, so all are forgotten.
    pub fn forget(&self) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.generation += 1;
        inner.found.clear();
    }
}
