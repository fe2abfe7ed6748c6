//! The state of a bounded number of keys: what is forgotten when room is needed, and what never is.
//!
//! A fixed table of sets with sixteen slots each, in shards with a lock each. A key has one set, found by a keyed
//! hash that no client can predict. When the set is full, its coldest key gives way: an expired one (which loses
//! nothing, for an expired key is like a new one), else the one that is fresh again soonest. A key that is being
//! refused right now gives way only if all sixteen are.

use std::hash::Hasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::gcra::Quota;
use super::{Key, RuleSalt};

/// Slots of a set: what one eviction compares.
const WAYS: usize = 16;
const SHARDS: usize = 64;

/// A rule and a key, hashed to 128 bits under the seed. Never 0, which marks an empty slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(u128);

/// The bounded table. Outlives the rules: a reload keeps it.
#[derive(Debug)]
pub struct Counters {
    shards: Box<[Mutex<Shard>]>,
    sets_per_shard: usize,
    seed: [u8; 16],
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Keys that gave way though they were not fresh again.
    pub live: u64,
    /// Of those, keys that were being refused.
    pub punished: u64,
}

/// Parallel arrays, zeroed by the allocator and therefore only as resident as they are used.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    keys: Box<[u128]>,
    tats: Box<[u64]>,
    /// How far ahead each key's TAT may be without being refused.
    tolerances: Box<[u64]>,
    evictions: Evictions,
}

impl Counters {
    /// Room for `max_keys` keys at 48 bytes each; `seed` must be random.
    ///
    /// There are half as many slots again as keys, so that with `max_keys` live ones fewer than one in a hundred finds
    /// its set crowded.
    pub fn new(max_keys: usize, seed: [u8; 16]) -> Self {
        let sets_per_shard = (max_keys + max_keys / 2).div_ceil(SHARDS * WAYS).max(1);
        let slots = sets_per_shard * WAYS;
        let shard = || {
            let (keys, tats, tolerances) = (vec![0; slots], vec![0; slots], vec![0; slots]);
            Mutex::new(Shard {
                keys: keys.into(),
                tats: tats.into(),
                tolerances: tolerances.into(),
                evictions: Evictions::default(),
            })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            sets_per_shard,
            seed,
        }
    }

    /// Slots: the bound that is never passed.
    pub fn capacity(&self) -> usize {
        SHARDS * self.sets_per_shard * WAYS
    }

    /// What had to give way so far.
    pub fn evictions(&self) -> Evictions {
        self.shards.iter().fold(Evictions::default(), |sum, shard| {
            let shard = lock(shard).evictions;
            Evictions {
                live: sum.live + shard.live,
                punished: sum.punished + shard.punished,
            }
        })
    }

    /// Keys that are not fresh again at `now_ns`. Walks the whole table: for metrics, not for requests.
    pub fn live_keys(&self, now_ns: u64) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).tats.iter().filter(|tat| **tat > now_ns).count())
            .sum()
    }

    pub(super) fn salt(&self, rule_name: &str) -> RuleSalt {
        let mut hasher = SipHasher13::new_with_key(&self.seed);
        hasher.write(rule_name.as_bytes());
        RuleSalt(hasher.finish128().h1)
    }

    pub(super) fn fingerprint(&self, salt: RuleSalt, key: Key<'_>) -> Fingerprint {
        let mut hasher = SipHasher13::new_with_key(&self.seed);
        hasher.write_u64(salt.0);
        match key {
            Key::Network(network) => hasher.write(&network.to_bytes()),
            Key::Ceiling(ceiling) => hasher.write(&ceiling.to_bytes()),
            Key::Account(text) | Key::Address(text) | Key::Session(text) => {
                hasher.write(text.as_bytes())
            }
            Key::Route => {}
        }
        hasher.write_u8(key.tag());
        Fingerprint(hasher.finish128().as_u128().max(1))
    }

    /// The TAT of a key; 0 if it is unknown.
    pub(super) fn tat(&self, key: Fingerprint) -> u64 {
        let (shard, slots) = self.place(key);
        let at = shard.find(slots, key);
        at.map_or(0, |at| shard.tats[at])
    }

    /// Replaces the TAT of a key by what `change` makes of it (0 for an unknown key); `None` leaves all as it is.
    pub(super) fn update<T>(
        &self,
        key: Fingerprint,
        quota: Quota,
        now_ns: u64,
        change: impl FnOnce(u64) -> (T, Option<u64>),
    ) -> T {
        let (mut shard, slots) = self.place(key);
        let found = shard.find(slots.clone(), key);
        let (answer, tat) = change(found.map_or(0, |at| shard.tats[at]));
        if let Some(tat) = tat {
            let at = found.unwrap_or_else(|| shard.make_room(slots, now_ns));
            shard.keys[at] = key.0;
            shard.tats[at] = tat;
            shard.tolerances[at] = quota.tolerance_ns();
        }
        answer
    }

    /// The locked shard of a key, and the slots of its set there.
    fn place(&self, key: Fingerprint) -> (MutexGuard<'_, Shard>, std::ops::Range<usize>) {
        let shard = (key.0 >> 122) as usize;
        // The low half spread evenly over the sets, without a division.
        let set = ((u128::from(key.0 as u64) * self.sets_per_shard as u128) >> 64) as usize;
        (lock(&self.shards[shard]), set * WAYS..(set + 1) * WAYS)
    }
}

impl Shard {
    fn find(&self, slots: std::ops::Range<usize>, key: Fingerprint) -> Option<usize> {
        let start = slots.start;
        self.keys[slots]
            .iter()
            .position(|known| *known == key.0)
            .map(|at| start + at)
    }

    /// The slot whose loss costs least: an empty one has TAT 0 and is the coldest of all.
    fn make_room(&mut self, slots: std::ops::Range<usize>, now: u64) -> usize {
        let mut coldest = slots.start;
        let mut best = (true, u64::MAX);
        for at in slots {
            let allowed_at = self.tats[at].saturating_sub(self.tolerances[at]);
            let is_punished = allowed_at > now;
            let rank = (
                is_punished,
                if is_punished {
                    allowed_at
                } else {
                    self.tats[at]
                },
            );
            if rank < best {
                (coldest, best) = (at, rank);
            }
        }
        self.evictions.live += u64::from(self.tats[coldest] > now);
        self.evictions.punished += u64::from(best.0);
        coldest
    }
}

/// A panic elsewhere leaves the numbers in order: every change is one slot's.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 1_000_000_000;

    fn take(counters: &Counters, key: Fingerprint, quota: Quota, now: u64) -> bool {
        counters.update(key, quota, now, |tat| {
            let (decision, next) = quota.decide(tat, now, 1);
            (decision.allowed, decision.allowed.then_some(next))
        })
    }

    fn key(counters: &Counters, name: &str) -> Fingerprint {
        counters.fingerprint(RuleSalt(7), Key::Account(name))
    }

    #[test]
    fn the_table_never_grows_and_the_punished_stay() {
        let counters = Counters::new(1, [1; 16]);
        assert_eq!(counters.capacity(), 1024);
        let quota = Quota::new(1, S, 3);
        let punished: Vec<Fingerprint> =
            (0..64).map(|i| key(&counters, &format!("p{i}"))).collect();
        for key in &punished {
            (0..3).for_each(|_| assert!(take(&counters, *key, quota, S)));
            assert!(!take(&counters, *key, quota, S));
        }
        for i in 0..100_000 {
            assert!(take(
                &counters,
                key(&counters, &i.to_string()),
                quota,
                S + i
            ));
        }
        for key in &punished {
            assert!(
                !take(&counters, *key, quota, S + 200_000),
                "still refused after a flood of a hundred times the room"
            );
        }
        assert!(counters.live_keys(S) <= 1024);
        let evictions = counters.evictions();
        assert!(
            evictions.live > 90_000 && evictions.punished == 0,
            "{evictions:?}"
        );
    }

    /// Bytes of this process that are in memory. (nextest gives each test a process of its own.)
    fn resident() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let resident = pages.split(' ').nth(1).unwrap();
        resident.parse::<usize>().unwrap() * 4096
    }

    /// what a flood from a million networks costs, and that it washes nobody's state away.
    #[test]
    fn a08_a_million_keys_stay_under_128_mib_and_the_hot_ones_stay() {
        let before = resident();
        let counters = Counters::new(1_000_000, [5; 16]);
        let (quota, hot_quota) = (Quota::new(1, S, 2), Quota::new(1, 60 * S, 5));
        let hot: Vec<_> = (0..100)
            .map(|i| key(&counters, &format!("hot {i}")))
            .collect();
        for key in &hot {
            (0..5).for_each(|_| assert!(take(&counters, *key, hot_quota, S)));
        }
        for i in 0..1_000_000_u64 {
            let key = key(&counters, &i.to_string());
            assert!(take(&counters, key, quota, S + i));
        }
        assert!(
            hot.iter()
                .all(|key| !take(&counters, *key, hot_quota, 2 * S))
        );
        assert!(counters.live_keys(S) > 990_000, "{}", counters.live_keys(S));
        let grown = resident() - before;
        assert!(grown < 128 << 20, "{grown} bytes");
    }

    #[test]
    fn a_punished_key_outlives_keys_that_only_take_longer_to_be_fresh() {
        let counters = Counters::new(1, [4; 16]);
        let (short, long) = (Quota::new(1, S, 1), Quota::new(1, 3_600 * S, 10));
        let punished = key(&counters, "punished");
        assert!(take(&counters, punished, short, S));
        (0..50_000).for_each(|i| assert!(take(&counters, key(&counters, &i.to_string()), long, S)));
        assert!(!take(&counters, punished, short, S + 1));
    }

    #[test]
    fn a_key_in_use_outlives_a_flood_of_keys_used_once() {
        let counters = Counters::new(4096, [2; 16]);
        let quota = Quota::new(10, S, 20);
        let hot = key(&counters, "hot");
        // Just below the limit: 10 requests a second, of which each leaves its mark.
        (0..15).for_each(|_| assert!(take(&counters, hot, quota, 0)));
        let mut before = counters.tat(hot);
        for round in 0..100_u64 {
            let now = round * S / 10;
            (0..2_000).for_each(|i| {
                take(
                    &counters,
                    key(&counters, &format!("{round}/{i}")),
                    quota,
                    now,
                );
            });
            assert_eq!(counters.tat(hot), before, "round {round}");
            take(&counters, hot, quota, now);
            before = counters.tat(hot);
        }
    }

    #[test]
    fn seeds_rules_and_kinds_make_different_keys() {
        let (one, two) = (Counters::new(1, [1; 16]), Counters::new(1, [2; 16]));
        let keys = [
            one.fingerprint(one.salt("a"), Key::Account("x")),
            one.fingerprint(one.salt("b"), Key::Account("x")),
            one.fingerprint(one.salt("a"), Key::Session("x")),
            one.fingerprint(one.salt("a"), Key::Address("x")),
            one.fingerprint(one.salt("a"), Key::Route),
            two.fingerprint(two.salt("a"), Key::Account("x")),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key));
        }
        assert_eq!(one.fingerprint(one.salt("a"), Key::Account("x")), keys[0]);
    }

    proptest! {
        /// While everything fits, the table is a map.
        #[test]
        fn agrees_with_a_map_of_tats(steps in prop::collection::vec((0_u8..20, 0_u64..S), 1..300)) {
            let counters = Counters::new(16_384, [3; 16]);
            let quota = Quota::new(1, S, 3);
            let mut map = std::collections::HashMap::new();
            let mut now = 0;
            for (name, wait) in steps {
                now += wait;
                let tat = map.entry(name).or_insert(0);
                let (decision, next) = quota.decide(*tat, now, 1);
                if decision.allowed { *tat = next }
                let key = key(&counters, &name.to_string());
                prop_assert_eq!(take(&counters, key, quota, now), decision.allowed);
                prop_assert_eq!(counters.tat(key), *tat);
            }
        }
    }
}
