//! `[guard.bans]`: networks that the guard denies again and again are kept out for a while, each time longer.

use serde::Deserialize;

use super::bounded;
use super::limits::parse_rate;
use crate::clock::Millis;
use crate::config::Span;

/// Most steps by which bans grow.
const MAX_LENGTHS: usize = 20;
/// The longest ban, and the longest memory of one.
const YEAR: Millis = 366 * DAY;
const DAY: Millis = 86_400_000;

/// `[guard.bans]` as it stands in the file.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct RawBans {
    /// `off`, `observe` or `enforce`.
    pub mode: String,
    /// So many denials at once begin a ban.
    pub denials: u64,
    /// In so long they are forgiven, evenly.
    pub window: Span,
    /// Of the first ban in a row, of the second, …; the last repeats.
    pub lengths: Vec<Span>,
    /// A network that got no ban for so long after its last one starts anew.
    pub forget_after: Span,
    /// Requests of a network that is slowed, as `COUNT/UNIT`.
    pub slow_rate: String,
    /// Of those, at once.
    pub slow_burst: u64,
    /// A network from which somebody signed in within so long is slowed, not banned.
    pub signed_in_within: Span,
    /// Networks on the list, remembered ones included.
    pub max_banned: u64,
    /// How often the list is read from the store again.
    pub refresh: Span,
}

/// What becomes of those who are on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BanMode {
    /// There is no list.
    Off,
    /// The list is kept; nobody is refused.
    Observe,
    /// They are refused.
    Enforce,
}

/// The validated section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanSettings {
    /// What becomes of those who are on the list.
    pub mode: BanMode,
    /// See [`RawBans`]; at least 2.
    pub denials: u32,
    /// See [`RawBans`].
    pub window: Span,
    /// At least one, none shorter than the one before.
    pub lengths: Vec<Span>,
    /// See [`RawBans`].
    pub forget_after: Span,
    /// Requests of a slowed network per period.
    pub slow_count: u64,
    /// Nanoseconds.
    pub slow_period_ns: u64,
    /// Requests of a slowed network at once.
    pub slow_burst: u32,
    /// See [`RawBans`].
    pub signed_in_within: Span,
    /// See [`RawBans`].
    pub max_banned: u32,
    /// See [`RawBans`].
    pub refresh: Span,
}

impl Default for RawBans {
    fn default() -> Self {
        Self {
            mode: "off".to_owned(),
            denials: 20,
            window: Span(600_000),
            lengths: [600_000, 3_600_000, 14_400_000, DAY].map(Span).to_vec(),
            forget_after: Span(7 * DAY),
            slow_rate: "1/s".to_owned(),
            slow_burst: 20,
            signed_in_within: Span(DAY),
            max_banned: 10_000,
            refresh: Span(2_000),
        }
    }
}

impl Default for BanSettings {
    fn default() -> Self {
        RawBans::default().validate(&mut Vec::new())
    }
}

impl BanSettings {
    /// How long the ban lasts that is so many-th in a row, counted from 1. Milliseconds.
    pub fn length(&self, times: i64) -> Millis {
        let at = usize::try_from(times - 1).unwrap_or_default();
        self.lengths[at.min(self.lengths.len() - 1)].0
    }
}

impl RawBans {
    /// Validates the section.
    pub fn validate(&self, problems: &mut Vec<String>) -> BanSettings {
        const AT: &str = "guard.bans";
        let mode = match self.mode.as_str() {
            "off" => BanMode::Off,
            "observe" => BanMode::Observe,
            "enforce" => BanMode::Enforce,
            other => {
                problems.push(format!(
                    "{AT}.mode is \"{other}\"; write off, observe or enforce"
                ));
                BanMode::Off
            }
        };
        let (slow_count, slow_period_ns) = parse_rate(&self.slow_rate).unwrap_or_else(|| {
            let text = &self.slow_rate;
            problems.push(format!(
                "{AT}.slow_rate \"{text}\" is none; write a count and a unit, like 1/s (s, min, h, day)"
            ));
            (1, 1_000_000_000)
        });
        self.check_times(problems);
        let mut number = |key, value, most| bounded(AT, key, value, 1..=most, problems) as u32;
        BanSettings {
            mode,
            // One denial alone is an accident.
            denials: number("denials", self.denials, 10_000).max(2),
            window: self.window,
            lengths: self.lengths.clone(),
            forget_after: self.forget_after,
            slow_count,
            slow_period_ns,
            slow_burst: number("slow_burst", self.slow_burst, 1_000),
            signed_in_within: self.signed_in_within,
            max_banned: number("max_banned", self.max_banned, 100_000),
            refresh: self.refresh,
        }
    }

    fn check_times(&self, problems: &mut Vec<String>) {
        let mut demand = |holds: bool, text: &str| {
            if !holds {
                problems.push(format!("guard.bans.{text}"));
            }
        };
        demand(
            (1_000..=DAY).contains(&self.window.0),
            "window: must be at least 1s and at most 24h",
        );
        demand(
            (1..=MAX_LENGTHS).contains(&self.lengths.len())
                && self.lengths.is_sorted()
                && self
                    .lengths
                    .iter()
                    .all(|length| (1_000..=YEAR).contains(&length.0)),
            "lengths: name 1 to 20, from 1s to 366d each, none shorter than the one before",
        );
        demand(
            (1_000..=YEAR).contains(&self.forget_after.0),
            "forget_after: must be at least 1s and at most 366d",
        );
        demand(
            (DAY..=YEAR).contains(&self.signed_in_within.0),
            "signed_in_within: must be at least 24h, so that a ban keeps no customer out, and at most 366d",
        );
        demand(
            (100..=60_000).contains(&self.refresh.0),
            "refresh: must be at least 100ms and at most 1min",
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let raw: RawBans = toml::from_str(text).unwrap();
        raw.validate(&mut problems);
        problems
    }

    #[test]
    fn the_default_is_that_of_the_file() {
        let file: toml::Table = crate::config::DEFAULT.parse().unwrap();
        let section = file["guard"]["bans"].clone();
        assert_eq!(section.try_into::<RawBans>().unwrap(), RawBans::default());
        assert_eq!(check(""), [""; 0]);
    }

    #[test]
    fn every_mistake_is_named() {
        for (text, part) in [
            ("mode = \"on\"", "off, observe or enforce"),
            ("denials = 0", "denials is 0"),
            ("window = \"25h\"", "window: must be"),
            ("lengths = []", "lengths: name 1 to 20"),
            ("lengths = [\"2h\", \"1h\"]", "none shorter"),
            ("lengths = [\"400d\"]", "from 1s to 366d"),
            ("forget_after = \"0s\"", "forget_after: must be"),
            ("slow_rate = \"fast\"", "write a count and a unit"),
            ("slow_burst = 0", "slow_burst is 0"),
            ("signed_in_within = \"1h\"", "keeps no customer out"),
            ("max_banned = 1000000", "max_banned is 1000000"),
            ("refresh = \"1h\"", "refresh: must be"),
        ] {
            let found = check(text);
            assert!(
                found.len() == 1 && found[0].starts_with("guard.bans") && found[0].contains(part),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn bans_grow_and_the_last_length_repeats() {
        let settings = BanSettings::default();
        let lengths = [1, 2, 3, 4, 5, 1_000].map(|times| settings.length(times) / 60_000);
        assert_eq!(lengths, [10, 60, 240, 1440, 1440, 1440]);
    }
}
