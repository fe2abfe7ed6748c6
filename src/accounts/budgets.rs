//! How often one may guess (contract, "Budgets"): mailed codes and passwords. The counts are rows, so they survive a restart and hold
//! on all nodes together. A try is reserved, in a short transaction of its own, before anything is compared; guesses sent at once count.

use super::Client;
use crate::app::App;
use crate::clock::Millis;
use crate::error::Error;
use crate::store::db::Tx;
use crate::store::requests::KnownBy;
use crate::store::{budgets, requests};

const DAY: Millis = 86_400_000;
/// A window is ten slots; one more, so that whatever lies within the window is always counted.
const SLOTS: usize = 11;
/// The kind of the password counts. Their keys begin with the hash of an address.
const PASSWORD: &str = "password";
/// The row that pays for everybody.
const SERVER: &str = "codes_server";

/// A try to guess a mailed code that has been paid for.
#[derive(Debug)]
#[must_use = "a right code gives its try back"]
pub struct CodeTry {
    at: Millis,
    /// What it was paid from, and when each last saw a wrong code.
    paid: Vec<(Payer, Millis)>,
}

/// A row that pays for code tries.
#[derive(Debug)]
struct Payer {
    kind: &'static str,
    key: Vec<u8>,
    most: i64,
}

/// Reserves a try of a mailed code.
///
/// # Errors
/// [`Error::TooManyRequests`] when the client's network, its /48 or the server has none left.
pub async fn reserve_code(app: &App, client: &Client) -> Result<CodeTry, Error> {
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let mut taken = Vec::new();
    let mut quiet = true;
    for payer in payers(app, client) {
        let state = payer.take(app, &mut tx, now).await?;
        if state.used() < payer.most {
            // The first to be taken is the network. Who has not guessed wrong for a day is no guesser.
            quiet &= !taken.is_empty() || state.used() == 0 && state.last_wrong <= now - DAY;
            taken.push((payer, state));
            continue;
        }
        if payer.kind == SERVER {
            app.metrics.code_budget_spent.inc();
            if quiet {
                // One try that is not the server's; until it proves right, its network is not quiet.
                continue;
            }
        }
        return Err(too_many(state.free_at(payer.most), now));
    }
    let mut paid = Vec::new();
    for (payer, mut state) in taken {
        let before = state.last_wrong;
        state.pay(now);
        budgets::put(&mut tx, payer.kind, &payer.key, &state.write()).await?;
        paid.push((payer, before));
    }
    tx.commit().await?;
    Ok(CodeTry { at: now, paid })
}

impl CodeTry {
    /// Gives the try back, in the transaction of what the right code does.
    pub async fn was_right(self, app: &App, tx: &mut Tx) -> Result<(), Error> {
        for (payer, last_wrong) in &self.paid {
            let mut state = payer.take(app, tx, app.clock.now()).await?;
            state.give_back(self.at, *last_wrong);
            budgets::put(tx, payer.kind, &payer.key, &state.write()).await?;
        }
        Ok(())
    }
}

impl Payer {
    async fn take(&self, app: &App, tx: &mut Tx, now: Millis) -> Result<Window, Error> {
        let state = budgets::take(tx, self.kind, &self.key, now).await?;
        let mut state = Window::read(&state)?;
        state.advance(app.config.accounts.budgets.codes_window.0, now);
        Ok(state)
    }
}

/// Always in this order, so that two tries wait for one another and never dead-lock.
fn payers(app: &App, client: &Client) -> Vec<Payer> {
    let budgets = &app.config.accounts.budgets;
    let payer = |kind, key: &str, most| Payer {
        kind,
        key: key.as_bytes().to_vec(),
        most,
    };
    let mut all = vec![payer(
        "codes_network",
        &client.network,
        budgets.codes_network,
    )];
    all.extend(site(&client.network).map(|site| payer("codes_site", &site, budgets.codes_site)));
    all.push(payer(SERVER, "", budgets.codes_server));
    all
}

/// The /48 of a client network that is an IPv6 /64.
fn site(network: &str) -> Option<String> {
    let (address, _) = network.split_once('/')?;
    let address: std::net::Ipv6Addr = address.parse().ok()?;
    let upper = address.to_bits() >> 80 << 80;
    Some(format!("{}/48", std::net::Ipv6Addr::from_bits(upper)))
}

fn too_many(free_at: Millis, now: Millis) -> Error {
    Error::TooManyRequests {
        retry_after: super::seconds_until(free_at, now, 1).unsigned_abs(),
        fields: None,
    }
}

/// A sliding window of counts: never more than the budget within any span of its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    /// Milliseconds.
    slot: i64,
    /// The number of the newest slot since 1970.
    newest: i64,
    /// Newest first.
    counts: [u32; SLOTS],
    /// When a try was last paid and not given back; 0 if never.
    last_wrong: Millis,
}

impl Window {
    const BYTES: usize = 8 + 8 + 8 + 4 * SLOTS;

    /// An empty state is that of a new row.
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        if bytes.len() != Self::BYTES {
            return Err(Error::internal("a row of `budgets` can't be read"));
        }
        let mut counts = [0; SLOTS];
        for (count, bytes) in counts.iter_mut().zip(bytes[24..].chunks_exact(4)) {
            *count = u32::from_be_bytes(bytes.try_into().unwrap_or_default());
        }
        Ok(Self {
            slot: number(&bytes[..8]),
            newest: number(&bytes[8..16]),
            last_wrong: number(&bytes[16..24]),
            counts,
        })
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        for number in [self.slot, self.newest, self.last_wrong] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(self.counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes
    }

    /// Brings it to the present. A node whose clock is behind counts in the newest slot.
    fn advance(&mut self, window: Millis, now: Millis) {
        let slot = (window + 9) / 10;
        if self.slot != slot {
            // The configured length changed: what was counted counts as just now.
            let used = self
                .counts
                .iter()
                .fold(0, |sum: u32, n| sum.saturating_add(*n));
            self.counts = [0; SLOTS];
            self.counts[0] = used;
            (self.slot, self.newest) = (slot, now / slot);
            return;
        }
        let steps = (now / slot - self.newest).max(0);
        let shift = usize::try_from(steps).unwrap_or(SLOTS).min(SLOTS);
        self.counts.rotate_right(shift);
        self.counts[..shift].fill(0);
        self.newest += steps;
    }

    fn used(&self) -> i64 {
        self.counts.iter().map(|count| i64::from(*count)).sum()
    }

    fn pay(&mut self, now: Millis) {
        self.counts[0] = self.counts[0].saturating_add(1);
        self.last_wrong = now;
    }

    /// Takes back what was paid at `at`, when `last_wrong` was what it says.
    fn give_back(&mut self, at: Millis, last_wrong: Millis) {
        let age = usize::try_from((self.newest - at / self.slot).max(0)).unwrap_or(SLOTS);
        if let Some(count) = self.counts.get_mut(age) {
            *count = count.saturating_sub(1);
        }
        // With others still open, or wrong, the later moment stands.
        if self.used() == 0 && self.last_wrong == at {
            self.last_wrong = last_wrong;
        }
    }

    /// When there will be less than `most` if nothing else is paid.
    fn free_at(&self, most: i64) -> Millis {
        let mut left = self.used();
        let mut slot = self.newest;
        for count in self.counts.iter().rev() {
            slot += 1;
            left -= i64::from(*count);
            if left < most {
                break;
            }
        }
        slot * self.slot
    }
}

fn number(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_be_bytes)
}

/// A try to guess a password that has been paid for.
#[derive(Debug)]
#[must_use = "a right password clears its count"]
pub struct PasswordTry {
    key: Vec<u8>,
}

/// Reserves a try of the password of an address, whether anybody has it or not. Strangers share one count; each device and network that
/// signed in to the account has a count of its own, which strangers can't use up.
///
/// # Errors
/// [`Error::TooManyRequests`] while a wrong password keeps the next waiting, and for good after too many in a row.
pub async fn reserve_password(
    app: &App,
    client: &Client,
    canonical: &str,
) -> Result<PasswordTry, Error> {
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    let key = password_key(app, &mut tx, client, canonical).await?;
    let mut count = Tries::read(&budgets::take(&mut tx, PASSWORD, &key, now).await?)?;
    if let Some(free_at) = count.free_at(&app.config.accounts.budgets, now) {
        return Err(too_many(free_at, now));
    }
    count.wrong += 1;
    count.last = now.max(count.last);
    budgets::put(&mut tx, PASSWORD, &key, &count.write()).await?;
    tx.commit().await?;
    Ok(PasswordTry { key })
}

impl PasswordTry {
    /// Clears the count that it was made under.
    pub async fn was_right(self, tx: &mut Tx) -> Result<(), Error> {
        budgets::clear(tx, PASSWORD, &self.key, &self.key).await?;
        Ok(())
    }

    /// Gives the try back: nothing was compared.
    pub async fn was_not_made(self, app: &App) -> Result<(), Error> {
        let mut tx = app.db.begin().await?;
        let state = budgets::take(&mut tx, PASSWORD, &self.key, app.clock.now()).await?;
        let mut count = Tries::read(&state)?;
        count.wrong = (count.wrong - 1).max(0);
        budgets::put(&mut tx, PASSWORD, &self.key, &count.write()).await?;
        tx.commit().await
    }
}

/// Clears every count of an address: its owner has proved to be the owner.
pub async fn clear_passwords(app: &App, tx: &mut Tx, canonical: &str) -> Result<(), Error> {
    for key in app.keys.iter() {
        let first = key.address_hash(canonical);
        // Above whatever follows the address in a key.
        let last = [first.as_slice(), &[0xff]].concat();
        budgets::clear(tx, PASSWORD, &first, &last).await?;
    }
    Ok(())
}

/// Address; address and known device; or address and known network.
async fn password_key(
    app: &App,
    tx: &mut Tx,
    client: &Client,
    canonical: &str,
) -> Result<Vec<u8>, Error> {
    let keys = app.keys.current();
    let device = client
        .device
        .as_deref()
        .map(|device| keys.device_hash(device));
    let since = app.clock.now() - app.config.accounts.session.known_network_life.0;
    let known =
        requests::known_by(tx, canonical, device.as_deref(), &client.network, since).await?;
    let mut key = keys.address_hash(canonical);
    match known {
        Some(KnownBy::Device) => {
            key.push(b'd');
            key.extend(device.unwrap_or_default());
        }
        Some(KnownBy::Network) => {
            key.push(b'n');
            key.extend(client.network.as_bytes());
        }
        None => {}
    }
    Ok(key)
}

/// Wrong passwords in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tries {
    wrong: i64,
    last: Millis,
}

impl Tries {
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.len() {
            0 => Ok(Self::default()),
            16 => Ok(Self {
                wrong: number(&bytes[..8]),
                last: number(&bytes[8..]),
            }),
            _ => Err(Error::internal("a row of `budgets` can't be read")),
        }
    }

    fn write(self) -> Vec<u8> {
        [self.wrong.to_be_bytes(), self.last.to_be_bytes()].concat()
    }

    /// When the next may be made; `None` if now.
    fn free_at(self, settings: &crate::config::Budgets, now: Millis) -> Option<Millis> {
        let longest = settings.passwords_longest_wait.0;
        if self.wrong >= settings.passwords_in_a_row {
            // Waiting does not help, but there is no other way to say so.
            return Some(now + longest);
        }
        let doubled = u32::try_from(self.wrong - settings.passwords_free).ok()?;
        let factor = 1_i64 << doubled.min(32);
        let wait = settings.passwords_first_wait.0.saturating_mul(factor);
        let free_at = self.last + wait.min(longest);
        (now < free_at).then_some(free_at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Millis = 600_000;
    const START: Millis = 1_795_435_200_000;

    proptest! {
        /// Against a log of every payment: never more than the budget within any window, all of it given back at the latest one slot after
        /// the window, `free_at` is exact, and a state survives being written.
        #[test]
        fn the_window_agrees_with_a_log(steps in proptest::collection::vec((0_i64..200_000, 0_u8..6), 1..300), most in 1_i64..12) {
            let (mut state, mut log, mut now) = (Window::default(), Vec::<Millis>::new(), START);
            for (pause, what) in steps {
                now += pause;
                state = Window::read(&state.write()).expect("it reads what it writes");
                state.advance(WINDOW, now);
                let within = |span: Millis| log.iter().filter(|at| **at > now - span).count() as i64;
                let (exact, at_most) = (within(WINDOW), within(WINDOW + WINDOW / 10));
                prop_assert!(exact <= state.used() && state.used() <= at_most, "{exact} {} {at_most}", state.used());
                if state.used() < most {
                    let before = state.clone();
                    state.pay(now);
                    if what == 0 {
                        state.give_back(now, before.last_wrong);
                        prop_assert_eq!(state.counts, before.counts);
                        prop_assert!(state.used() > 0 || state.last_wrong == before.last_wrong);
                    } else {
                        log.push(now);
                    }
                } else {
                    let free_at = state.free_at(most);
                    prop_assert!(free_at > now && free_at <= now + WINDOW + WINDOW / 10);
                    let at = |moment| { let mut later = state.clone(); later.advance(WINDOW, moment); later.used() };
                    prop_assert!(at(free_at - 1) >= most && at(free_at) < most);
                }
            }
            for start in &log {
                prop_assert!(log.iter().filter(|at| (*start..start + WINDOW).contains(*at)).count() as i64 <= most);
            }
        }
    }

    #[test]
    fn another_length_of_the_window_forgets_nothing() {
        let mut state = Window::default();
        state.advance(WINDOW, START);
        (0..7).for_each(|_| state.pay(START));
        state.advance(2 * WINDOW, START + 100_000);
        assert_eq!(state.used(), 7);
    }

    #[test]
    fn a_clock_that_is_behind_frees_nothing() {
        let mut state = Window::default();
        state.advance(WINDOW, START);
        state.pay(START);
        state.advance(WINDOW, START - 2 * WINDOW);
        assert_eq!((state.used(), state.counts[0]), (1, 1));
    }

    #[test]
    fn a_site_is_the_48_of_an_ipv6_network() {
        assert_eq!(
            site("2001:db8:1:2::/64").as_deref(),
            Some("2001:db8:1::/48")
        );
        assert_eq!(site("203.0.113.7"), None);
        assert_eq!(site("operator"), None);
    }
}
