//! The arithmetic of a limit: the generic cell rate algorithm (ITU-T I.371, virtual scheduling), without any store.
//!
//! A key's whole state is one time, its *theoretical arrival time* (TAT): when it would be fresh again. Every request
//! pushes the TAT one interval ahead; a request is refused while the TAT is further ahead than the burst allows.

/// How much a key may do. Times are nanoseconds of any clock that does not run backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Between two requests at the steady rate.
    interval_ns: u64,
    /// Requests that a fresh key may make at once.
    burst: u32,
}

/// The answer to one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may pass.
    pub allowed: bool,
    /// Requests that would pass right after this one.
    pub remaining: u32,
    /// Whole seconds, rounded up, after which the same request would pass; 0 when it did.
    pub retry_after_s: u32,
    /// Whole seconds, rounded up, after which the key is fresh again if it keeps still.
    pub reset_s: u32,
}

impl Decision {
    /// Where nothing limits.
    pub const UNLIMITED: Self = Self {
        allowed: true,
        remaining: u32::MAX,
        retry_after_s: 0,
        reset_s: 0,
    };
}

impl Quota {
    /// `count` requests per period, `burst` at once. In any span `t`, at most `burst + t · count / period` pass.
    ///
    /// Zeros count as one; the interval is rounded up, never in the client's favour, and the time to refill is capped
    /// at a hundred years.
    pub fn new(count: u64, period_ns: u64, burst: u32) -> Self {
        const CENTURY_NS: u64 = 100 * 366 * 86_400_000_000_000;
        let burst = burst.max(1);
        let interval_ns = period_ns
            .div_ceil(count.max(1))
            .clamp(1, CENTURY_NS / u64::from(burst));
        Self { interval_ns, burst }
    }

    /// A quota under which never more than `count` requests pass within *any* span shorter than `window_ns`: half of
    /// them at once, the other half spread over the window. For budgets that are stated as "so many in that time".
    pub fn at_most(count: u32, window_ns: u64) -> Self {
        let spread = count / 2;
        Self::new(u64::from(spread.max(1)), window_ns, count - spread)
    }

    /// Requests that a fresh key may make at once.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Nanoseconds in which an exhausted key becomes fresh.
    pub fn refill_ns(&self) -> u64 {
        self.interval_ns * u64::from(self.burst)
    }

    /// How far ahead the TAT may be for a request to pass.
    pub fn tolerance_ns(&self) -> u64 {
        self.interval_ns * u64::from(self.burst - 1)
    }

    /// Decides about a request of cost `cost` at `now`, for a key with this TAT (0 for an unknown one).
    ///
    /// The second value is the TAT to store if, and only if, the request is allowed. A cost above the burst is always
    /// refused; a cost of 0 asks how the key stands.
    pub fn decide(&self, tat: u64, now: u64, cost: u32) -> (Decision, u64) {
        let ahead = tat.saturating_sub(now);
        let wanted = ahead.saturating_add(self.interval_ns.saturating_mul(u64::from(cost)));
        let full = self.refill_ns();
        let allowed = wanted <= full;
        let kept = if allowed { wanted } else { ahead };
        let decision = Decision {
            allowed,
            // The quotient is at most the burst.
            remaining: (full.saturating_sub(kept) / self.interval_ns) as u32,
            retry_after_s: if allowed {
                0
            } else {
                seconds_up(wanted.min(ahead.saturating_add(full)) - full)
            },
            reset_s: seconds_up(kept),
        };
        (decision, now.saturating_add(kept))
    }

    /// The TAT after `cost` is given back.
    pub fn give_back(&self, tat: u64, cost: u32) -> u64 {
        tat.saturating_sub(self.interval_ns.saturating_mul(u64::from(cost)))
    }
}

fn seconds_up(ns: u64) -> u32 {
    u32::try_from(ns.div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_fresh_key_may_burst_then_waits() {
        let quota = Quota::new(10, 60 * S, 5);
        let mut tat = 0;
        for left in (0..5).rev() {
            let (decision, next) = quota.decide(tat, 100 * S, 1);
            let used = 5 - left;
            assert_eq!(
                decision,
                Decision {
                    allowed: true,
                    remaining: left,
                    retry_after_s: 0,
                    reset_s: used * 6
                }
            );
            tat = next;
        }
        let (refused, _) = quota.decide(tat, 100 * S, 1);
        assert_eq!(
            refused,
            Decision {
                allowed: false,
                remaining: 0,
                retry_after_s: 6,
                reset_s: 30
            }
        );
        assert!(!quota.decide(tat, 106 * S - 1, 1).0.allowed);
        assert!(quota.decide(tat, 106 * S, 1).0.allowed);
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(
            Quota::new(7, 60, 1).refill_ns(),
            9,
            "rounded up, never in the client's favour"
        );
        let slow = Quota::new(1, u64::MAX, u32::MAX);
        assert!(slow.decide(0, u64::MAX, 1).0.allowed);
        assert!(!slow.decide(u64::MAX, 0, u32::MAX).0.allowed);
        let quota = Quota::new(0, 0, 0);
        assert!(quota.decide(0, 0, 1).0.allowed);
        assert!(
            !quota.decide(0, 0, 2).0.allowed,
            "a cost above the burst never passes"
        );
        assert_eq!(quota.decide(0, 0, 0).0.remaining, 1);
    }

    /// The reference: the moments of all allowed requests, and a leaky bucket in exact whole numbers.
    fn naive(quota: Quota, level: &mut u128, last: &mut u64, now: u64, cost: u32) -> bool {
        let drained = u128::from(now - *last);
        *level = level.saturating_sub(drained);
        *last = now;
        let added = u128::from(quota.interval_ns) * u128::from(cost);
        let fits = *level + added <= u128::from(quota.interval_ns) * u128::from(quota.burst);
        if fits {
            *level += added;
        }
        fits
    }

    prop_compose! {
        fn quotas()(count in 1_u64..50, period in 1_u64..1_000, burst in 1_u32..20) -> Quota { Quota::new(count, period, burst) }
    }

    proptest! {
        #[test]
        fn agrees_with_a_leaky_bucket(quota in quotas(), steps in prop::collection::vec((0_u64..200, 0_u32..4), 1..200)) {
            let (mut tat, mut level, mut last, mut now) = (0, 0, 0, 0);
            for (wait, cost) in steps {
                now += wait;
                let (decision, next) = quota.decide(tat, now, cost);
                prop_assert_eq!(decision.allowed, naive(quota, &mut level, &mut last, now, cost));
                if decision.allowed { tat = next }
                // `remaining` is exactly what passes at once, and not one more.
                prop_assert!(quota.decide(tat, now, decision.remaining).0.allowed);
                prop_assert!(!quota.decide(tat, now, decision.remaining + 1).0.allowed);
            }
        }

        #[test]
        fn never_more_than_burst_and_rate_in_any_window(quota in quotas(), waits in prop::collection::vec(0_u64..100, 1..150)) {
            let (mut tat, mut now, mut passed) = (0, 0, Vec::new());
            for wait in waits {
                now += wait;
                let (decision, next) = quota.decide(tat, now, 1);
                if decision.allowed { tat = next; passed.push(now) }
            }
            for (first, &start) in passed.iter().enumerate() {
                for (last, &end) in passed.iter().enumerate().skip(first) {
                    let most = u64::from(quota.burst) + (end - start) / quota.interval_ns;
                    prop_assert!((last - first + 1) as u64 <= most);
                }
            }
        }

        #[test]
        fn a_budget_is_never_exceeded_in_its_window(count in 1_u32..40, window in 40_u64..2_000, waits in prop::collection::vec(0_u64..60, 1..200)) {
            let quota = Quota::at_most(count, window);
            let (mut tat, mut now, mut passed) = (0, 0, Vec::new());
            for wait in waits {
                now += wait;
                let (decision, next) = quota.decide(tat, now, 1);
                if decision.allowed { tat = next; passed.push(now) }
            }
            for &end in &passed {
                let within = passed.iter().filter(|&&at| at <= end && end - at < window).count();
                prop_assert!(within <= count as usize);
            }
        }

        #[test]
        fn retry_after_is_when_it_passes(count in 1_u64..100, burst in 1_u32..20, tries in 1_u32..60, now in 0_u64..100 * S) {
            let quota = Quota::new(count, 60 * S, burst);
            let mut tat = 0;
            for _ in 0..tries {
                let (decision, next) = quota.decide(tat, now, 1);
                if decision.allowed { tat = next; continue }
                prop_assert!(decision.retry_after_s >= 1);
                prop_assert!(quota.decide(tat, now + u64::from(decision.retry_after_s) * S, 1).0.allowed);
                prop_assert!(!quota.decide(tat, now + u64::from(decision.retry_after_s - 1) * S, 1).0.allowed);
            }
        }

        #[test]
        fn what_is_given_back_can_be_taken_again(quota in quotas(), taken in 1_u32..20, back in 1_u32..20, now in 1_000_000_u64..2_000_000) {
            let (mut tat, mut passed) = (0, 0);
            for _ in 0..taken {
                let (decision, next) = quota.decide(tat, now, 1);
                if decision.allowed { tat = next; passed += 1 }
            }
            let before = quota.decide(tat, now, 0).0.remaining;
            let after = quota.decide(quota.give_back(tat, back), now, 0).0.remaining;
            prop_assert_eq!(after, before + back.min(passed));
        }
    }
}
