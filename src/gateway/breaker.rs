//! When to leave an upstream alone: a circuit breaker that learns from answers, and a memory of health checks.
//!
//! ```text
//!            5 failures in a row, or more than half of 20 or more in 10 s
//!   Closed ---------------------------------------------------------------> Open
//!     ^                                                                      |
//!     | the probe succeeds                       1 s, 2 s, 4 s … 10 s later  |
//!     +------------------------------ HalfOpen <-----------------------------+
//!                                        |   (the probe fails: Open again)   ^
//!                                        +-----------------------------------+
//! ```

/// When a breaker opens and for how long. By default after 5 failures in a row, or when more than 50 % of at least 20
/// requests within 10 s fail (field notes, 1.5: between Envoy's and Traefik's defaults); for 1 s at first, so that a service that was
/// only restarted is back soon, and for twice as long after each failed probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Failures in a row that open it.
    pub consecutive: u32,
    /// It opens when more than this share of a window's results are failures.
    pub percent: u32,
    /// Fewest results of a window that the share is taken of.
    pub least_results: u32,
    /// Milliseconds of the window; counted in ten slices.
    pub window_ms: u64,
    /// Milliseconds until the first probe is let through.
    pub first_open_ms: u64,
    /// Milliseconds between later ones at most; also the patience with a probe that never reports.
    pub open_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            consecutive: 5,
            percent: 50,
            least_results: 20,
            window_ms: 10_000,
            first_open_ms: 1_000,
            open_ms: 10_000,
        }
    }
}

/// How a request to an upstream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The upstream answered.
    Success,
    /// It could not be reached, ran into a time-out, broke off, or answered that it is unwell.
    Failure,
    /// Nothing was learnt: the client went away, or the request was never sent.
    Unknown,
}

/// Leave for one request; every one must come back by [`Breaker::report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    generation: u64,
}

/// A breaker's state, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All requests pass.
    Closed,
    /// None passes.
    Open,
    /// One passes.
    HalfOpen,
}

const SLICES: usize = 10;

/// The circuit breaker of one upstream. Time is in milliseconds of any clock; one that steps back only delays.
#[derive(Debug)]
pub struct Breaker {
    policy: Policy,
    phase: Phase,
    /// Rises with every change of phase, so that answers to requests of an earlier phase are not mistaken.
    generation: u64,
    /// Times that it opened since it was last closed.
    opened: u32,
}

#[derive(Debug)]
enum Phase {
    Closed {
        in_a_row: u32,
        window: Window,
    },
    Open {
        until: u64,
    },
    /// A probe is under way; another may go when it has not reported by then.
    HalfOpen {
        lost_at: u64,
    },
}

impl Breaker {
    /// A closed breaker.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            phase: Phase::closed(),
            generation: 0,
            opened: 0,
        }
    }

    /// Lets everything through again: something better than a guess says that all is well.
    pub fn close(&mut self) {
        self.opened = 0;
        self.enter(Phase::closed());
    }

    /// Its state at `now_ms`.
    pub fn state(&self, now_ms: u64) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { until } if now_ms < until => State::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Milliseconds until a request may pass; 0 if one may now.
    pub fn wait_ms(&self, now_ms: u64) -> u64 {
        match self.phase {
            Phase::Closed { .. } => 0,
            Phase::Open { until } => until.saturating_sub(now_ms),
            Phase::HalfOpen { lost_at } => lost_at.saturating_sub(now_ms),
        }
    }

    /// Leave for one request, if one may pass now.
    pub fn admit(&mut self, now_ms: u64) -> Option<Ticket> {
        (self.wait_ms(now_ms) == 0).then(|| self.admit_anyway(now_ms))
    }

    /// Leave for one request in any state: the last resort when every upstream is open. Its ending counts as a
    /// probe's.
    pub fn admit_anyway(&mut self, now_ms: u64) -> Ticket {
        if !matches!(self.phase, Phase::Closed { .. }) {
            self.enter(Phase::HalfOpen {
                lost_at: now_ms.saturating_add(self.policy.open_ms),
            });
        }
        Ticket {
            generation: self.generation,
        }
    }

    /// Takes note of how a request ended. Endings of requests from before the last change of phase are ignored.
    pub fn report(&mut self, ticket: Ticket, ending: Ending, now_ms: u64) {
        if ticket.generation != self.generation {
            return;
        }
        let policy = self.policy;
        let is_failure = ending == Ending::Failure;
        let opens = match (&mut self.phase, ending) {
            (Phase::Closed { .. }, Ending::Unknown) | (Phase::Open { .. }, _) => false,
            (Phase::Closed { in_a_row, window }, _) => {
                *in_a_row = if is_failure { *in_a_row + 1 } else { 0 };
                window.add(is_failure, now_ms, policy.window_ms);
                is_failure && (*in_a_row >= policy.consecutive || window.is_bad(&policy))
            }
            (Phase::HalfOpen { .. }, Ending::Success) => {
                self.close();
                false
            }
            // The next request is the next probe.
            (Phase::HalfOpen { lost_at }, Ending::Unknown) => {
                *lost_at = now_ms;
                false
            }
            (Phase::HalfOpen { .. }, Ending::Failure) => true,
        };
        if opens {
            let doubled = policy.first_open_ms << self.opened.min(16);
            self.opened += 1;
            self.enter(Phase::Open {
                until: now_ms.saturating_add(doubled.min(policy.open_ms)),
            });
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }
}

impl Phase {
    fn closed() -> Self {
        Self::Closed {
            in_a_row: 0,
            window: Window::default(),
        }
    }
}

/// Results of the last window, in slices of time.
#[derive(Debug, Default)]
struct Window {
    /// The number of the newest slice since the clock's zero.
    newest: u64,
    /// Successes and failures by the slice's number modulo the length.
    slices: [(u32, u32); SLICES],
}

impl Window {
    fn add(&mut self, is_failure: bool, now_ms: u64, window_ms: u64) {
        let slice = now_ms / (window_ms / SLICES as u64).max(1);
        let newest = slice.max(self.newest);
        for stale in (self.newest + 1..=newest).take(SLICES) {
            self.slices[stale as usize % SLICES] = (0, 0);
        }
        self.newest = newest;
        let (successes, failures) = &mut self.slices[newest as usize % SLICES];
        *(if is_failure { failures } else { successes }) += 1;
    }

    fn is_bad(&self, policy: &Policy) -> bool {
        let (successes, failures) = self
            .slices
            .iter()
            .fold((0, 0), |sum, slice| (sum.0 + slice.0, sum.1 + slice.1));
        let results = successes + failures;
        results >= policy.least_results
            && u64::from(failures) * 100 > u64::from(results) * u64::from(policy.percent)
    }
}

/// What active health checks say of one upstream. It is up until they say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    fall: u32,
    rise: u32,
    is_up: bool,
    /// Checks in a row that speak against the present state.
    against: u32,
}

impl Health {
    /// Down after `fall` failed checks in a row, up again after `rise` good ones.
    pub fn new(fall: u32, rise: u32) -> Self {
        Self {
            fall,
            rise,
            is_up: true,
            against: 0,
        }
    }

    /// Whether it may be used.
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// Takes note of one check; true if the state changed.
    pub fn note(&mut self, is_good: bool) -> bool {
        if is_good == self.is_up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let changes = self.against >= if self.is_up { self.fall } else { self.rise };
        if changes {
            self.is_up = is_good;
            self.against = 0;
        }
        changes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ten seconds each time: what is tested is all the rest.
    fn steady() -> Policy {
        Policy {
            first_open_ms: 10_000,
            ..Policy::default()
        }
    }

    #[test]
    fn it_stays_open_for_longer_each_time_until_it_closes() {
        let mut breaker = Breaker::new(Policy::default());
        for _ in 0..2 {
            (0..5).for_each(|_| assert!(end(&mut breaker, Ending::Failure, 0)));
            let mut waits = Vec::new();
            for _ in 0..6 {
                waits.push(breaker.wait_ms(0));
                // The probe fails at once.
                let ticket = breaker.admit_anyway(0);
                breaker.report(ticket, Ending::Failure, 0);
            }
            assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
            breaker.close();
            assert_eq!(breaker.state(0), State::Closed);
        }
    }

    fn end(breaker: &mut Breaker, ending: Ending, now: u64) -> bool {
        breaker
            .admit(now)
            .map(|ticket| breaker.report(ticket, ending, now))
            .is_some()
    }

    #[test]
    fn five_in_a_row_open_it_and_a_good_probe_closes_it() {
        let mut breaker = Breaker::new(steady());
        for _ in 0..4 {
            end(&mut breaker, Ending::Failure, 0);
        }
        end(&mut breaker, Ending::Unknown, 0);
        assert_eq!(breaker.state(0), State::Closed);
        end(&mut breaker, Ending::Failure, 0);
        assert_eq!((breaker.state(0), breaker.wait_ms(1)), (State::Open, 9_999));
        assert!(breaker.admit(9_999).is_none());
        let probe = breaker.admit(10_000).unwrap();
        assert!(breaker.admit(10_001).is_none(), "one probe at a time");
        breaker.report(probe, Ending::Failure, 10_002);
        assert!(breaker.admit(20_001).is_none());
        let probe = breaker.admit(20_002).unwrap();
        breaker.report(probe, Ending::Success, 20_003);
        assert_eq!(breaker.state(20_003), State::Closed);
    }

    #[test]
    fn more_than_half_of_twenty_open_it_within_ten_seconds_only() {
        let mut breaker = Breaker::new(steady());
        let mut both =
            |now| [Ending::Success, Ending::Failure].map(|ending| end(&mut breaker, ending, now));
        (0..10).for_each(|_| assert!(both(0)[1]));
        assert!(both(500)[0], "half is not more than half");
        assert!(end(&mut breaker, Ending::Failure, 900));
        assert_eq!(breaker.state(900), State::Open);
        let mut slow = Breaker::new(steady());
        for i in 0..100 {
            let ending = if i % 3 == 0 {
                Ending::Success
            } else {
                Ending::Failure
            };
            assert!(
                end(&mut slow, ending, i * 1_000),
                "two of three fail, but never twenty in the window"
            );
        }
    }

    #[test]
    fn late_answers_and_lost_probes_do_no_harm() {
        let mut breaker = Breaker::new(steady());
        let late = breaker.admit(0).unwrap();
        (0..5).for_each(|_| assert!(end(&mut breaker, Ending::Failure, 0)));
        breaker.report(late, Ending::Success, 5);
        assert_eq!(
            breaker.state(5),
            State::Open,
            "a request from before says nothing"
        );
        let lost = breaker.admit(10_000).unwrap();
        assert!(breaker.admit(19_999).is_none());
        let second = breaker.admit(20_000).unwrap();
        breaker.report(lost, Ending::Success, 20_001);
        assert_eq!(
            breaker.state(20_001),
            State::HalfOpen,
            "the lost probe is no longer asked"
        );
        breaker.report(second, Ending::Unknown, 20_002);
        assert!(
            breaker.admit(20_002).is_some(),
            "a probe without a result is followed by another"
        );
    }

    #[test]
    fn health_needs_several_checks_to_turn() {
        let mut health = Health::new(3, 2);
        let turns: Vec<bool> = [
            false, false, true, false, false, false, true, false, true, true,
        ]
        .map(|good| health.note(good))
        .into();
        assert_eq!(
            turns,
            [
                false, false, false, false, false, true, false, false, false, true
            ]
        );
        assert!(health.is_up());
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Wait(u64),
        Ask,
        /// The nth request under way ends.
        End(usize, Ending),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let ending = prop_oneof![2 => Just(Ending::Success), 4 => Just(Ending::Failure), 1 => Just(Ending::Unknown)];
        let step = prop_oneof![
            1 => (0_u64..12_000).prop_map(Step::Wait),
            2 => (0_u64..400).prop_map(Step::Wait),
            5 => Just(Step::Ask),
            5 => (0_usize..8, ending).prop_map(|(at, ending)| Step::End(at, ending)),
        ];
        prop::collection::vec(step, 0..400)
    }

    /// The rule itself, over the list of all results since the breaker closed.
    fn should_open(results: &[(u64, bool)], policy: &Policy) -> bool {
        let in_a_row = results
            .iter()
            .rev()
            .take_while(|(_, failed)| *failed)
            .count();
        let slice = policy.window_ms / SLICES as u64;
        let newest = results.last().map_or(0, |(at, _)| at / slice);
        let recent: Vec<bool> = results
            .iter()
            .filter(|(at, _)| at / slice + (SLICES as u64) > newest)
            .map(|r| r.1)
            .collect();
        let failures = recent.iter().filter(|failed| **failed).count();
        let is_bad = recent.len() >= policy.least_results as usize
            && failures * 100 > recent.len() * policy.percent as usize;
        results.last().is_some_and(|(_, failed)| *failed)
            && (in_a_row >= policy.consecutive as usize || is_bad)
    }

    proptest! {
        #[test]
        fn follows_its_diagram(steps in steps(), consecutive in 3_u32..40) {
            let policy = Policy { consecutive, ..steady() };
            let mut breaker = Breaker::new(policy);
            let (mut now, mut under_way, mut results) = (0, Vec::new(), Vec::new());
            // Since when it is open; since when a probe is out; how often it changed.
            let (mut opened, mut probe, mut epoch) = (None::<u64>, None::<u64>, 0);
            for step in steps {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Ask => {
                        let may = match (opened, probe) {
                            (None, _) => true,
                            (Some(at), None) => now >= at + policy.open_ms,
                            (Some(_), Some(sent)) => now >= sent + policy.open_ms,
                        };
                        let ticket = breaker.admit(now);
                        prop_assert_eq!(ticket.is_some(), may);
                        if let Some(ticket) = ticket {
                            if opened.is_some() { probe = Some(now); epoch += 1 }
                            under_way.push((ticket, epoch));
                        }
                    }
                    Step::End(at, ending) if at < under_way.len() => {
                        let (ticket, its_epoch) = under_way.remove(at);
                        breaker.report(ticket, ending, now);
                        if its_epoch != epoch { continue }
                        match (opened, ending) {
                            (None, Ending::Unknown) => {}
                            (None, _) => {
                                results.push((now, ending == Ending::Failure));
                                if should_open(&results, &policy) { opened = Some(now); probe = None; epoch += 1 }
                            }
                            (Some(_), Ending::Success) => { opened = None; probe = None; results.clear(); epoch += 1 }
                            (Some(_), Ending::Failure) => { opened = Some(now); probe = None; epoch += 1 }
                            (Some(_), Ending::Unknown) => probe = Some(now.saturating_sub(policy.open_ms)),
                        }
                    }
                    Step::End(..) => {}
                }
                prop_assert_eq!(breaker.state(now) == State::Closed, opened.is_none());
            }
        }
    }
}
