//! A set of networks that answers as fast for 100,000 as for one.

use std::net::IpAddr;

use ipnet::IpNet;

/// Merged, sorted ranges of addresses; membership is a binary search.
#[derive(Debug)]
pub(super) struct NetworkSet {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// Ranges that neither touch nor overlap; starts and ends apart, so that the search touches the starts only.
#[derive(Debug)]
struct Ranges<T> {
    starts: Box<[T]>,
    /// Inclusive.
    ends: Box<[T]>,
}

impl NetworkSet {
    pub(super) fn new(networks: &[IpNet]) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for network in networks {
            match network {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self {
            v4: Ranges::new(v4, |end| end.checked_add(1)),
            v6: Ranges::new(v6, |end| end.checked_add(1)),
        }
    }

    /// Whether an address is in the set; expects IPv4-mapped addresses to be folded.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.contains(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.contains(v6.to_bits()),
        }
    }

    /// How many ranges the set came down to.
    pub(super) fn len(&self) -> usize {
        self.v4.starts.len() + self.v6.starts.len()
    }
}

impl<T: Ord + Copy> Ranges<T> {
    fn new(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match merged.last_mut() {
                // The last range ends at the highest address, or at or behind the place before this one.
                Some((_, last)) if next(*last).is_none_or(|after| start <= after) => {
                    *last = end.max(*last)
                }
                _ => merged.push((start, end)),
            }
        }
        let (starts, ends): (Vec<T>, Vec<T>) = merged.into_iter().unzip();
        Self {
            starts: starts.into(),
            ends: ends.into(),
        }
    }

    fn contains(&self, address: T) -> bool {
        let after = self.starts.partition_point(|start| *start <= address);
        after > 0 && address <= self.ends[after - 1]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    proptest! {
        #[test]
        fn agrees_with_asking_each_network(
            nets in prop::collection::vec((0_u32..64, 26_u8..=32), 0..20),
            low in 0_u32..64,
        ) {
            // A small corner of the address space, at its upper end, in both families.
            let v4: Vec<IpNet> = nets.iter()
                .map(|(a, len)| IpNet::new(Ipv4Addr::from_bits(!63 | a).into(), *len).unwrap().trunc()).collect();
            let v6: Vec<IpNet> = nets.iter()
                .map(|(a, len)| IpNet::new(Ipv6Addr::from_bits(!63 | u128::from(*a)).into(), len + 96).unwrap().trunc()).collect();
            let set = NetworkSet::new(&[v4.clone(), v6.clone()].concat());
            for (nets, address) in [
                (&v4, IpAddr::from(Ipv4Addr::from_bits(!63 | low))),
                (&v6, IpAddr::from(Ipv6Addr::from_bits(!63 | u128::from(low)))),
            ] {
                prop_assert_eq!(set.contains(address), nets.iter().any(|net| net.contains(&address)));
            }
        }
    }

    #[test]
    fn neighbours_merge_and_everything_is_one_range() {
        let set = |nets: &[&str]| {
            NetworkSet::new(&nets.iter().map(|n| n.parse().unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(
            set(&["10.0.0.0/25", "10.0.0.128/25", "10.0.1.0/24"]).len(),
            1
        );
        assert_eq!(
            set(&["0.0.0.0/0", "10.0.0.0/8", "255.255.255.255/32"]).len(),
            1
        );
        assert!(set(&["::/0"]).contains("2001:db8::1".parse().unwrap()));
        assert!(!set(&["::/0"]).contains("10.0.0.1".parse().unwrap()));
        assert!(!set(&[]).contains("10.0.0.1".parse().unwrap()));
    }
}
