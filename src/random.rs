//! Randomness, as an argument; ids, codes and the type that secrets travel in.

use std::fmt;
use std::sync::Mutex;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Millis;

/// Crockford's base32: no I, L, O, U.
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// For references: no vowels, nothing that looks like something else (no L, Q, Y).
const TAG_LETTERS: &[u8; 18] = b"BCDFGHJKMNPRSTVWXZ";
/// Symbols of a mailed code: 50 bits.
const CODE_SYMBOLS: usize = 10;

/// The source of all random bytes.
#[derive(Debug)]
pub struct Random(Source);

#[derive(Debug)]
enum Source {
    System,
    Seeded { seed: u64, counter: Mutex<u64> },
}

impl Random {
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// For tests: the same bytes in the same order for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded {
            seed,
            counter: Mutex::new(0),
        })
    }

    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        match &self.0 {
            Source::System => fill_from_system(&mut out),
            Source::Seeded { seed, counter } => {
                let mut counter = counter.lock().expect("a counter can't be left half-way");
                for chunk in out.chunks_mut(32) {
                    *counter += 1;
                    let block = [seed.to_be_bytes(), counter.to_be_bytes()].concat();
                    chunk.copy_from_slice(&sha256(&block)[..chunk.len()]);
                }
            }
        }
        out
    }

    /// A new row id: 48 bits of time, 80 random, in lower-case base32 (the ULID layout, so ids sort by age).
    pub fn id(&self, now: Millis) -> String {
        let random: [u8; 10] = self.bytes();
        let mut value = (now as u128 & 0xffff_ffff_ffff) << 80;
        for (place, byte) in random.iter().enumerate() {
            value |= u128::from(*byte) << (8 * (9 - place));
        }
        let symbol = |place: u32| CROCKFORD[(value >> (5 * place) & 31) as usize];
        (0..26)
            .rev()
            .map(|place| symbol(place).to_ascii_lowercase() as char)
            .collect()
    }

    /// 256 random bits as text: grants, session and device secrets, tokens.
    pub fn secret(&self) -> Secret<String> {
        Secret(URL_SAFE_NO_PAD.encode(self.bytes::<32>()))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks the system for randomness"
)]
fn fill_from_system(out: &mut [u8]) {
    aws_lc_rs::rand::fill(out).expect("the system's random generator works");
}

pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    out
}

/// A secret: it compares in constant time and prints as `***`.
#[derive(Clone)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Every call of this is a place to look at in a review.
    pub fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// Whether two digests are the same, in a time that does not depend on where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// A mailed code in its bare form: ten Crockford symbols.
#[derive(Clone)]
pub struct Code(String);

impl Code {
    /// The first 50 bits of a MAC.
    pub fn from_mac(mac: &[u8; 32]) -> Self {
        let bits = mac[..7]
            .iter()
            .fold(0u64, |bits, byte| bits << 8 | u64::from(*byte))
            >> 6;
        let symbols = (0..CODE_SYMBOLS as u32).rev();
        Self(
            symbols
                .map(|place| CROCKFORD[(bits >> (5 * place) & 31) as usize] as char)
                .collect(),
        )
    }

    /// What a person typed: any case, spaces and dashes anywhere, `O` for 0, `I` and `L` for 1.
    /// `None` if that does not leave exactly ten symbols.
    pub fn parse(typed: &str) -> Option<Self> {
        let mut symbols = String::with_capacity(CODE_SYMBOLS);
        for letter in typed.chars().filter(|c| !is_separator(*c)) {
            let folded = match letter.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let known = folded.is_ascii() && CROCKFORD.contains(&(folded as u8));
            if !known || symbols.len() == CODE_SYMBOLS {
                return None;
            }
            symbols.push(folded);
        }
        (symbols.len() == CODE_SYMBOLS).then_some(Self(symbols))
    }

    pub fn bare(&self) -> &str {
        &self.0
    }

    /// `7K3QM-X9T2B`.
    pub fn shown(&self) -> String {
        format!("{}-{}", &self.0[..5], &self.0[5..])
    }
}

/// White space and every dash that a mail program or phone makes of `-`.
fn is_separator(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

/// Three letters that tie a mail to a screen. They carry no secret.
pub fn tag_from_mac(mac: &[u8; 32]) -> String {
    mac[..3]
        .iter()
        .map(|byte| TAG_LETTERS[*byte as usize % TAG_LETTERS.len()] as char)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_code_survives_how_people_type_it(mac: [u8; 32], lower: bool, gap in "[ -]{0,3}") {
            let code = Code::from_mac(&mac);
            let mut typed = code.shown().replace('-', &gap).replace('0', "o").replace('1', "l");
            if lower { typed = typed.to_lowercase(); }
            let parsed = Code::parse(&typed).expect("parses");
            prop_assert_eq!(parsed.bare(), code.bare());
        }

        #[test]
        fn parsing_never_panics_and_keeps_to_the_alphabet(typed in ".{0,40}") {
            if let Some(code) = Code::parse(&typed) {
                prop_assert!(code.bare().bytes().all(|byte| CROCKFORD.contains(&byte)));
                prop_assert_eq!(code.bare().len(), CODE_SYMBOLS);
            }
        }
    }

    #[test]
    fn ids_sort_by_time_and_secrets_do_not_print() {
        let random = Random::seeded(7);
        assert!(random.id(1_000) < random.id(2_000));
        assert_eq!(format!("{:?}", random.secret()), "***");
        assert_eq!(
            Code::parse("7K3QM-X9T2U").map(|code| code.0),
            None,
            "U is no symbol"
        );
    }
}
