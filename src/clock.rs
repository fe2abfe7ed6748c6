//! Time, as an argument. Nothing else in the program asks the system what time it is.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// Nanoseconds on a clock that nobody sets. Only differences mean anything.
pub type Nanos = u64;

/// Where the time comes from, with a floor: a clock that is set back never revives what has expired.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    floor: Mutex<Floor>,
}

/// The last answer, and when it was given by a clock that nobody sets.
#[derive(Debug, Default)]
struct Floor {
    answer: Millis,
    given: Option<Instant>,
}

impl Floor {
    /// The next answer. After a step back of the reading, time goes on from the last answer by the steady clock, so that one jump
    /// forward and back does not stop it. Without a steady clock it stands still.
    fn next(&mut self, reading: Millis, steady: Option<Instant>) -> Millis {
        let passed = match (self.given, steady) {
            (Some(given), Some(steady)) => steady.saturating_duration_since(given),
            _ => std::time::Duration::ZERO,
        };
        let passed_millis = passed.as_millis() as Millis;
        let flowed = self.answer + passed_millis;
        // The part of a millisecond that has passed must not be lost each time somebody asks.
        if reading >= flowed || self.given.is_none() {
            self.given = steady;
        } else if let Some(given) = self.given {
            self.given = given.checked_add(std::time::Duration::from_millis(passed_millis as u64));
        }
        self.answer = flowed.max(reading);
        self.answer
    }
}

#[derive(Debug)]
enum Source {
    /// With the moment that [`Clock::nanos`] counts from.
    System(Instant),
    Manual(AtomicI64),
}

impl Clock {
    pub fn system() -> Self {
        Self {
            source: Source::System(steady()),
            floor: Mutex::default(),
        }
    }

    /// For tests: stands still until it is moved.
    pub fn manual(start: Millis) -> Self {
        Self {
            source: Source::Manual(AtomicI64::new(start)),
            floor: Mutex::default(),
        }
    }

    /// The time now; never less than any answer given before.
    pub fn now(&self) -> Millis {
        let mut floor = self
            .floor
            .lock()
            .expect("nothing panics while it holds this");
        match &self.source {
            Source::System(_) => floor.next(system_millis(), Some(steady())),
            Source::Manual(at) => floor.next(at.load(Ordering::SeqCst), None),
        }
    }

    /// For how long something took: much finer than [`Clock::now`], and no lock is taken.
    pub fn nanos(&self) -> Nanos {
        match &self.source {
            Source::System(began) => steady().saturating_duration_since(*began).as_nanos() as Nanos,
            Source::Manual(at) => at.load(Ordering::SeqCst).max(0) as Nanos * 1_000_000,
        }
    }

    /// What has passed since an earlier [`Clock::nanos`].
    pub fn nanos_since(&self, began: Nanos) -> Nanos {
        self.nanos().saturating_sub(began)
    }

    /// Moves a manual clock by `by` milliseconds (negative = back). The system's clock can't be moved.
    pub fn advance(&self, by: Millis) {
        match &self.source {
            Source::Manual(at) => at.fetch_add(by, Ordering::SeqCst),
            Source::System(_) => unreachable!("only a manual clock is moved"),
        };
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the system clock"
)]
fn system_millis() -> Millis {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as Millis)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the steady clock"
)]
fn steady() -> Instant {
    Instant::now()
}

/// `2026-11-23T18:59:00Z`.
pub fn rfc3339(at: Millis) -> String {
    let (year, month, day, hour, minute, second) = civil(at);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `23 November 2026, 18:59 UTC`, for people.
pub fn for_people(at: Millis) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (year, month, day, hour, minute, _) = civil(at);
    format!(
        "{day} {} {year}, {hour:02}:{minute:02} UTC",
        MONTHS[month as usize - 1]
    )
}

/// Year, month, day, hour, minute, second in UTC (Howard Hinnant's days-to-civil algorithm).
fn civil(at: Millis) -> (i64, i64, i64, i64, i64, i64) {
    let seconds = at.div_euclid(1000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day, rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_460_352_000), "2026-11-23T18:59:12Z");
        assert_eq!(for_people(1_795_460_352_000), "23 November 2026, 18:59 UTC");
    }

    #[test]
    fn the_clock_never_steps_back() {
        let clock = Clock::manual(1_000);
        assert_eq!(clock.now(), 1_000);
        clock.advance(-500);
        assert_eq!(clock.now(), 1_000);
        clock.advance(600);
        assert_eq!(clock.now(), 1_100);
    }

    #[test]
    fn how_long_something_took_is_never_negative() {
        let clock = Clock::manual(1_000);
        let began = clock.nanos();
        clock.advance(3);
        assert_eq!(clock.nanos_since(began), 3_000_000);
        clock.advance(-500);
        assert_eq!(clock.nanos_since(began), 0);
        let clock = Clock::system();
        let (first, second) = (clock.nanos(), clock.nanos());
        assert!(first <= second);
    }

    #[test]
    fn after_a_jump_and_back_time_goes_on() {
        let (start, mut floor) = (steady(), Floor::default());
        let mut next = |reading, micros| {
            floor.next(
                reading,
                Some(start + std::time::Duration::from_micros(micros)),
            )
        };
        assert_eq!(next(1_000, 0), 1_000);
        assert_eq!(next(900_000, 0), 900_000);
        assert_eq!(next(1_000, 600), 900_000);
        assert_eq!(next(1_001, 1_200), 900_001);
        assert_eq!(next(1_500, 500_000), 900_500);
        assert_eq!(next(950_000, 501_000), 950_000);
    }
}
