//! Which passwords may be set (NIST SP 800-63B-4 section 3.1.1.2, ASVS 5.0 6.2): long enough, not known to attackers, not made of
//! the person's own data. No rules of composition.

use unicode_normalization::UnicodeNormalization;

use crate::app::App;
use crate::config;
use crate::error::Error;
use crate::random::Secret;

/// Lower-cased, sorted bytewise; see `assets/README.md` for source and licence.
static COMMON: &str = include_str!("../../assets/common-passwords.txt");

/// zxcvbn looks at so many characters; its time grows faster than the length.
const SCORED_CHARACTERS: usize = 40;

/// A password in the form it is hashed in: NFC (SP 800-63B-4 asks for a normal form).
pub fn normal(typed: &str) -> Secret<String> {
    Secret::new(typed.nfc().collect())
}

/// Checks a new password against the policy. Guessing how it could be guessed is slow work, so the hash threads do it.
///
/// # Errors
/// [`Error::WeakPassword`] with what to change, one sentence each; [`Error::Busy`].
pub async fn check(app: &App, typed: &str, own: &[&str]) -> Result<Secret<String>, Error> {
    let policy = &app.config.accounts.password;
    let password = normal(typed);
    let mut reasons = plain_reasons(policy, password.reveal());
    if reasons.is_empty() {
        let (own, min_score) = (own_words(own), policy.min_score);
        let score = Box::new(move |password: &str| scored_reasons(min_score, password, &own));
        reasons = app.hasher.score(password.clone(), score).await?;
    }
    if reasons.is_empty() {
        Ok(password)
    } else {
        Err(Error::WeakPassword(reasons))
    }
}

/// What is found out at once.
fn plain_reasons(policy: &config::Password, password: &str) -> Vec<String> {
    let length = password.chars().count();
    if length < policy.min_length {
        return vec![format!("Use at least {} characters.", policy.min_length)];
    }
    if length > policy.max_length {
        return vec![format!("Use at most {} characters.", policy.max_length)];
    }
    if is_common(password) {
        return vec!["This password is known from data breaches. Choose another one.".to_owned()];
    }
    Vec::new()
}

fn scored_reasons(min_score: u8, password: &str, own: &[String]) -> Vec<String> {
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let scored: String = password.chars().take(SCORED_CHARACTERS).collect();
    let estimate = zxcvbn::zxcvbn(&scored, &own);
    if u8::from(estimate.score()) >= min_score {
        return Vec::new();
    }
    let mut reasons = vec!["This password is too easy to guess.".to_owned()];
    if let Some(feedback) = estimate.feedback() {
        reasons.extend(feedback.warning().map(|warning| warning.to_string()));
        reasons.extend(feedback.suggestions().iter().map(ToString::to_string));
    }
    if reasons.len() == 1 {
        reasons.push("Add another word or two. Uncommon words are better.".to_owned());
    }
    reasons
}

fn is_common(password: &str) -> bool {
    let lower = password.to_lowercase();
    static LINES: std::sync::LazyLock<Vec<&str>> =
        std::sync::LazyLock::new(|| COMMON.lines().collect());
    LINES.binary_search(&lower.as_str()).is_ok()
}

/// The person's own data whole and in its parts: `ada.lovelace@example.com` also means `ada` and `lovelace`.
fn own_words(own: &[&str]) -> Vec<String> {
    let mut words = vec!["cargoextra".to_owned()];
    for text in own {
        words.push((*text).to_owned());
        let parts = text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|part| part.len() > 2);
        words.extend(parts.map(str::to_owned));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: config::Password = config::Password {
        min_length: 8,
        max_length: 256,
        min_score: 3,
    };

    fn refused(password: &str) -> Vec<String> {
        let plain = plain_reasons(&POLICY, password);
        if !plain.is_empty() {
            return plain;
        }
        let own = own_words(&["ada.lovelace@example.com", "Ada"]);
        scored_reasons(POLICY.min_score, password, &own)
    }

    #[test]
    fn the_published_example_passes() {
        assert_eq!(refused("NewSecurePass123"), Vec::<String>::new());
    }

    #[test]
    fn says_what_to_change() {
        assert_eq!(refused("short"), ["Use at least 8 characters."]);
        assert_eq!(refused(&"x".repeat(257)), ["Use at most 256 characters."]);
        assert_eq!(
            refused("Password1"),
            ["This password is known from data breaches. Choose another one."]
        );
        assert_eq!(
            refused("lovelace-ada")[0],
            "This password is too easy to guess."
        );
    }

    /// S-06: sixty-four emoji are a password like any other.
    #[test]
    fn any_unicode_passes() {
        let emoji: String = (0..64)
            .filter_map(|n| char::from_u32(0x1f600 + n * 37 % 64))
            .collect();
        assert_eq!(refused(&emoji), Vec::<String>::new());
        assert_eq!(normal("e\u{301}").reveal(), "\u{e9}");
    }

    #[test]
    fn the_list_is_sorted() {
        assert!(
            COMMON
                .lines()
                .zip(COMMON.lines().skip(1))
                .all(|(a, b)| a < b)
        );
    }
}
