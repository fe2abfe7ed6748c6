//! Which of a route's upstreams gets the next request.
//!
//! A member takes part when its health checks say it is up, its breaker lets a request pass, and it has room. When
//! none does because all are out, the request is refused at once, or, with `last_resort`, the member that is nearest
//! to being tried anyway is tried now.
//!
//! One [`Group`] is one core's or one lock's; a pick takes tens of nanoseconds.

use crate::config::edge::routes::{Balance, RouteSettings};
use crate::gateway::breaker::{Breaker, Ending, Health, Policy, State, Ticket};

/// The upstreams of one route, by their place in its settings.
#[derive(Debug)]
pub struct Group {
    members: Box<[Member]>,
    /// Of all members: no credit is ever larger.
    total_weight: i64,
    balance: Balance,
    last_resort: bool,
}

#[derive(Debug)]
struct Member {
    weight: u32,
    /// Of the smooth weighted round robin: what it is ahead of (or behind) its share.
    credit: i64,
    under_way: u32,
    most_under_way: u32,
    breaker: Breaker,
    health: Health,
}

/// One request to one member; every one must come back by [`Group::finish`].
#[derive(Debug)]
pub struct Lease {
    member: usize,
    ticket: Ticket,
    /// The breaker has heard of it.
    told: bool,
}

impl Lease {
    /// The member's place in the route's upstreams.
    pub fn member(&self) -> usize {
        self.member
    }
}

/// Why no member took a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Those that are well have as many requests under way as they may.
    Busy,
    /// All are out; one may be tried in these milliseconds (one health check later at the earliest, if 0).
    AllOut {
        /// Milliseconds.
        retry_in_ms: u64,
    },
}

impl Group {
    /// The upstreams of a route, all up and closed.
    pub fn new(route: &RouteSettings, policy: Policy, last_resort: bool) -> Self {
        let (fall, rise) = route
            .health
            .as_ref()
            .map_or((u32::MAX, 1), |health| (health.fall, health.rise));
        let member = |weight| Member {
            weight,
            credit: 0,
            under_way: 0,
            most_under_way: route.max_connections,
            breaker: Breaker::new(policy),
            health: Health::new(fall, rise),
        };
        let members: Box<[Member]> = route
            .upstreams
            .iter()
            .map(|upstream| member(upstream.weight))
            .collect();
        let total_weight = members.iter().map(|member| i64::from(member.weight)).sum();
        Self {
            members,
            total_weight,
            balance: route.balance,
            last_resort,
        }
    }

    /// Chooses a member. `not` is one that has just failed this request; it is taken again only if no other is left.
    pub fn pick(&mut self, now_ms: u64, not: Option<usize>) -> Result<Lease, Refused> {
        let chosen = self
            .choose(now_ms, not)
            .or_else(|| not.and_then(|_| self.choose(now_ms, None)));
        let chosen = match chosen {
            Some(member) => member,
            None => self.resort(now_ms)?,
        };
        let member = &mut self.members[chosen];
        member.under_way += 1;
        Ok(Lease {
            member: chosen,
            ticket: member.breaker.admit_anyway(now_ms),
            told: false,
        })
    }

    /// Takes note that an upstream has answered, though the request is not over: a stream may last for days, and the breaker must not
    /// wait for its end.
    pub fn answered(&mut self, lease: &mut Lease, ending: Ending, now_ms: u64) {
        lease.told = true;
        let breaker = &mut self.members[lease.member].breaker;
        breaker.report(lease.ticket, ending, now_ms);
    }

    /// Takes the ending of a request that *this* group gave leave for. After an answer only a failure tells anything new.
    pub fn finish(&mut self, lease: Lease, ending: Ending, now_ms: u64) {
        let member = &mut self.members[lease.member];
        member.under_way -= 1;
        if !lease.told || ending == Ending::Failure {
            member.breaker.report(lease.ticket, ending, now_ms);
        }
    }

    /// Takes a health check's result; true if it turned the member's state. One that has come back is tried at once.
    pub fn note_health(&mut self, member: usize, is_good: bool) -> bool {
        let member = &mut self.members[member];
        let turned = member.health.note(is_good);
        if turned && is_good {
            member.breaker.close();
        }
        turned
    }

    /// Requests under way, the breaker's state, and what health checks say, for metrics.
    pub fn status(&self, now_ms: u64) -> impl Iterator<Item = (u32, State, bool)> {
        self.members.iter().map(move |member| {
            (
                member.under_way,
                member.breaker.state(now_ms),
                member.health.is_up(),
            )
        })
    }

    fn choose(&mut self, now_ms: u64, not: Option<usize>) -> Option<usize> {
        let (balance, most) = (self.balance, self.total_weight);
        let mut best: Option<usize> = None;
        let mut total = 0;
        for at in 0..self.members.len() {
            if Some(at) == not || !self.members[at].takes(now_ms) {
                continue;
            }
            let member = &mut self.members[at];
            // Least connections choose by another measure, under which credit would pile up.
            member.credit = (member.credit + i64::from(member.weight)).min(most);
            total += i64::from(member.weight);
            if best.is_none_or(|best| self.members[at].is_before(&self.members[best], balance)) {
                best = Some(at);
            }
        }
        let best = best?;
        self.members[best].credit = (self.members[best].credit - total).max(-most);
        Some(best)
    }

    fn resort(&self, now_ms: u64) -> Result<usize, Refused> {
        if self.members.iter().any(|member| member.is_well(now_ms)) {
            return Err(Refused::Busy);
        }
        let nearest = (0..self.members.len()).min_by_key(|at| self.members[*at].outage(now_ms));
        let Some(nearest) = nearest else {
            return Err(Refused::AllOut { retry_in_ms: 0 });
        };
        let member = &self.members[nearest];
        // One at a time, lest the last resort hold up all requests at a dead upstream.
        if self.last_resort && member.under_way == 0 {
            return Ok(nearest);
        }
        Err(Refused::AllOut {
            retry_in_ms: member.breaker.wait_ms(now_ms),
        })
    }
}

impl Member {
    fn is_well(&self, now_ms: u64) -> bool {
        self.health.is_up() && self.breaker.wait_ms(now_ms) == 0
    }

    fn takes(&self, now_ms: u64) -> bool {
        self.is_well(now_ms) && self.under_way < self.most_under_way
    }

    /// Down comes after open, longer after shorter.
    fn outage(&self, now_ms: u64) -> (bool, u64) {
        (!self.health.is_up(), self.breaker.wait_ms(now_ms))
    }

    /// Whether this one is the better choice. Among equally busy ones it is whoever is furthest behind its share.
    fn is_before(&self, other: &Self, balance: Balance) -> bool {
        let by_turn = self.credit > other.credit;
        match balance {
            Balance::RoundRobin => by_turn,
            Balance::LeastConnections => {
                // under_way / weight, without the division.
                let mine = u64::from(self.under_way) * u64::from(other.weight);
                let theirs = u64::from(other.under_way) * u64::from(self.weight);
                mine < theirs || (mine == theirs && by_turn)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::edge::RawEdge;
    use proptest::prelude::*;

    fn group(weights: &[u32], balance: &str, last_resort: bool) -> Group {
        let upstreams = weights
            .iter()
            .enumerate()
            .map(|(i, weight)| format!("{{ url = \"http://u{i}\", weight = {weight} }}"));
        let text = format!(
            "[[gateway.routes]]\nprefix = \"/x\"\nauth = \"none\"\nupstreams = [{}]\nbalance = \"{balance}\"\n\
             max_connections = 10\nhealth = {{ path = \"/h\", fall = 1, rise = 1 }}",
            upstreams.collect::<Vec<_>>().join(",")
        );
        Group::new(
            &toml::from_str::<RawEdge>(&text)
                .unwrap()
                .validate()
                .unwrap()
                .routes[0],
            Policy {
                first_open_ms: 10_000,
                ..Policy::default()
            },
            last_resort,
        )
    }

    fn turn(group: &mut Group, ending: Ending, now: u64) -> Option<usize> {
        let lease = group.pick(now, None).ok()?;
        let member = lease.member();
        group.finish(lease, ending, now);
        Some(member)
    }

    #[test]
    fn round_robin_is_smooth_and_weighted() {
        let mut group = group(&[5, 1, 1], "round_robin", false);
        let turns: Vec<usize> = (0..7)
            .filter_map(|_| turn(&mut group, Ending::Success, 0))
            .collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn least_connections_counts_weight_and_takes_turns() {
        let mut group = group(&[1, 1, 2], "least_connections", false);
        let held: Vec<Lease> = (0..8).map(|_| group.pick(0, None).unwrap()).collect();
        let count = |member| held.iter().filter(|lease| lease.member() == member).count();
        assert_eq!([count(0), count(1), count(2)], [2, 2, 4]);
        held.into_iter()
            .for_each(|lease| group.finish(lease, Ending::Success, 0));
        let idle: std::collections::HashSet<usize> = (0..4)
            .filter_map(|_| turn(&mut group, Ending::Success, 0))
            .collect();
        assert_eq!(idle.len(), 3, "idle members take turns");
    }

    #[test]
    fn the_broken_are_skipped_and_come_back() {
        let mut group = group(&[1, 1], "round_robin", false);
        for _ in 0..5 {
            let lease = group.pick(0, Some(1)).unwrap();
            assert_eq!(lease.member(), 0);
            group.finish(lease, Ending::Failure, 0);
        }
        assert!((0..10).all(|_| turn(&mut group, Ending::Success, 9_999) == Some(1)));
        let turns: Vec<_> = (0..4)
            .map(|_| turn(&mut group, Ending::Success, 10_000))
            .collect();
        assert!(turns.contains(&Some(0)), "{turns:?}");
        assert!(group.note_health(1, false));
        assert!((0..4).all(|_| turn(&mut group, Ending::Success, 10_000) == Some(0)));
        assert_eq!(
            group
                .status(10_000)
                .map(|(_, _, up)| up)
                .collect::<Vec<_>>(),
            [true, false]
        );
    }

    #[test]
    fn when_all_are_out_it_refuses_or_tries_the_nearest_one() {
        for last_resort in [false, true] {
            let mut group = group(&[1, 1], "round_robin", last_resort);
            for (member, at) in [(0, 0), (1, 3_000)] {
                for _ in 0..5 {
                    let lease = group.pick(at, Some(1 - member)).unwrap();
                    group.finish(lease, Ending::Failure, at);
                }
            }
            match group.pick(4_000, None) {
                Ok(lease) => {
                    assert!(last_resort && lease.member() == 0);
                    assert_eq!(group.pick(4_000, None).map(|lease| lease.member()), Ok(1));
                    assert!(group.pick(4_000, None).is_err(), "at most one each");
                    group.finish(lease, Ending::Success, 4_001);
                    assert_eq!(
                        turn(&mut group, Ending::Success, 4_002),
                        Some(0),
                        "a good last resort closes the breaker"
                    );
                }
                Err(refused) => {
                    assert!(!last_resort && refused == Refused::AllOut { retry_in_ms: 6_000 })
                }
            }
        }
    }

    #[test]
    fn the_last_resort_is_rather_one_that_was_well_at_the_last_health_check() {
        let mut group = group(&[1, 1], "round_robin", true);
        for _ in 0..5 {
            let lease = group.pick(0, Some(1)).unwrap();
            group.finish(lease, Ending::Failure, 0);
        }
        group.note_health(1, false);
        assert_eq!(group.pick(1, None).unwrap().member(), 0);
    }

    #[test]
    fn a_full_group_is_busy_and_a_retry_prefers_another() {
        let mut group = group(&[1, 1], "least_connections", true);
        let held: Vec<Lease> = (0..20).map(|_| group.pick(0, None).unwrap()).collect();
        assert_eq!(group.pick(0, None).unwrap_err(), Refused::Busy);
        held.into_iter()
            .for_each(|lease| group.finish(lease, Ending::Unknown, 0));
        assert_eq!(group.pick(0, Some(0)).unwrap().member(), 1);
        group.note_health(1, false);
        assert_eq!(
            group.pick(0, Some(0)).unwrap().member(),
            0,
            "if it is the only one left"
        );
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(1_u32..20, 1..6)) {
            let mut group = group(&weights, "round_robin", false);
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0; weights.len()];
            (0..total).for_each(|_| counts[turn(&mut group, Ending::Success, 0).unwrap()] += 1);
            prop_assert_eq!(counts, weights);
        }

        #[test]
        fn counts_never_go_wrong(steps in prop::collection::vec((0_u64..3_000, 0_usize..12, 0_u8..3), 0..300), last_resort: bool) {
            let mut group = group(&[1, 3, 2], "least_connections", last_resort);
            let (mut now, mut held) = (0, Vec::new());
            for (wait, at, kind) in steps {
                now += wait;
                if at < held.len() {
                    let ending = [Ending::Success, Ending::Failure, Ending::Unknown][usize::from(kind)];
                    group.finish(held.swap_remove(at), ending, now);
                } else if let Ok(lease) = group.pick(now, None) {
                    held.push(lease);
                }
                let under_way: u32 = group.status(now).map(|(count, _, _)| count).sum();
                prop_assert_eq!(under_way as usize, held.len());
                prop_assert!(group.members.iter().all(|member| member.under_way <= 10));
                prop_assert!(group.members.iter().all(|member| member.credit.abs() <= 6));
            }
        }
    }
}
