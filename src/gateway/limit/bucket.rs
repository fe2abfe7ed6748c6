//! A count of its own over the same table as the rules', for what no rule of the configuration names.

use std::sync::Arc;

use super::counters::Counters;
use super::gcra::{Decision, Quota};
use super::{Key, RuleSalt};

/// One quota, counted by key. What was counted outlives a reload.
#[derive(Debug)]
pub struct Bucket {
    quota: Quota,
    salt: RuleSalt,
    counters: Arc<Counters>,
}

impl Bucket {
    /// `name` tells its keys from others'; with a space in it, no rule of the configuration has it.
    pub fn new(name: &str, quota: Quota, counters: &Arc<Counters>) -> Self {
        Self {
            quota,
            salt: counters.salt(name),
            counters: counters.clone(),
        }
    }

    /// Takes one from a key, if its quota allows.
    pub fn take(&self, key: Key<'_>, now_ns: u64) -> Decision {
        let key = self.counters.fingerprint(self.salt, key);
        self.counters.update(key, self.quota, now_ns, |tat| {
            let (decision, next) = self.quota.decide(tat, now_ns, 1);
            (decision, decision.allowed.then_some(next))
        })
    }

    /// Forgets what was taken from a key.
    pub fn forget(&self, key: Key<'_>, now_ns: u64) {
        let key = self.counters.fingerprint(self.salt, key);
        self.counters
            .update(key, self.quota, now_ns, |_| ((), Some(now_ns)));
    }
}
