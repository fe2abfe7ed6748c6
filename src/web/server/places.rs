//! How many connections there may be: in all, and of one client network. Who comes too late is closed at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

use crate::gateway::client_ip::Network;

/// The open connections of a process's public listeners, or of its admin listener.
#[derive(Debug)]
pub struct Places {
    most: usize,
    most_per_network: usize,
    taken: watch::Sender<usize>,
    /// Only networks that have a connection: bounded by `most`.
    networks: Mutex<HashMap<Network, usize>>,
    /// For metrics.
    open: Gauge,
}

/// One connection's place, until it is dropped: kept by its socket, whoever owns that.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    network: Option<Network>,
}

impl Places {
    pub fn new(most: usize, most_per_network: usize, open: Gauge) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_per_network,
            taken: watch::Sender::new(0),
            networks: Mutex::default(),
            open,
        })
    }

    /// A place, if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let most = self.most;
        let is_free = self.taken.send_if_modified(|taken| {
            let is_free = *taken < most;
            *taken += usize::from(is_free);
            is_free
        });
        is_free.then(|| {
            self.open.inc();
            Place {
                places: self.clone(),
                network: None,
            }
        })
    }

    /// Ends when every place is free.
    pub async fn all_free(&self) {
        // It can't fail: the sender is ours.
        let _ = self.taken.subscribe().wait_for(|taken| *taken == 0).await;
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<Network, usize>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Counts it for a network; false when that has all that it may have. To be called once.
    #[must_use]
    pub fn count_for(&mut self, network: Network) -> bool {
        let mut networks = self.places.networks();
        let taken = networks.entry(network).or_default();
        if *taken >= self.places.most_per_network {
            return false;
        }
        *taken += 1;
        self.network = Some(network);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open.dec();
        if let Some(network) = self.network {
            let mut networks = self.places.networks();
            if let Some(taken) = networks.get_mut(&network) {
                *taken -= 1;
                if *taken == 0 {
                    networks.remove(&network);
                }
            }
        }
        self.places.taken.send_modify(|taken| *taken -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    #[test]
    fn a_place_is_free_again_when_its_owner_drops_it() {
        let places = Places::new(2, 9, Gauge::default());
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some() && places.take().is_none());
        drop(first);
        assert!(places.take().is_some());
    }

    #[test]
    fn addresses_of_one_network_share_its_places_and_others_do_not() {
        let places = Places::new(9, 2, Gauge::default());
        let mut kept = Vec::new();
        for (text, is_free) in [
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::1", true),
            ("192.0.2.1", true),
        ] {
            let mut place = places.take().expect("a place");
            assert_eq!(place.count_for(network(text)), is_free, "{text}");
            kept.push(place);
        }
        assert_eq!(places.networks().len(), 3);
        kept.clear();
        // Nobody who left is remembered.
        assert!(places.networks().is_empty());
        let mut place = places.take().expect("a place");
        assert!(place.count_for(network("2001:db8::3")));
    }

    #[tokio::test]
    async fn all_free_waits_for_the_last() {
        let places = Places::new(2, 2, Gauge::default());
        let place = places.take();
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.all_free().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(place);
        waiting.await.expect("it ends");
    }
}
