//! E-mail addresses: one type, one canonical form to compare by.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use unicode_normalization::UnicodeNormalization;

use crate::random::sha256;

/// Bytes; RFC 5321 4.5.3.1.3 less the angle brackets.
const LONGEST: usize = 254;
/// Bytes; RFC 5321 4.5.3.1.1.
const LONGEST_LOCAL: usize = 64;

/// An address as written and as compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// With the domain as it goes onto the wire: mail servers need not know any but ASCII names.
    stored: String,
    canonical: String,
}

impl Email {
    /// An address that can be one: trimmed, at most 254 bytes, a dot-atom (or non-ASCII) local part and a domain that IDNA accepts.
    /// `None` for anything else; there is no way to reach such an address.
    pub fn parse(typed: &str) -> Option<Self> {
        let typed = typed.trim();
        if typed.len() > LONGEST {
            return None;
        }
        let stored: String = typed.nfc().collect();
        let (local, domain) = stored.rsplit_once('@')?;
        if !is_local_part(local) || !domain.chars().all(may_stand_in_domain) {
            return None;
        }
        let typed_domain = domain;
        let domain = idna::domain_to_ascii_strict(domain).ok()?;
        if !is_mapped_by_case_alone(typed_domain, &domain) {
            return None;
        }
        let named = domain.split('.').all(|label| !label.is_empty());
        if !named || !domain.contains('.') || domain.parse::<std::net::Ipv4Addr>().is_ok() {
            return None;
        }
        let written = if typed_domain.is_ascii() {
            typed_domain
        } else {
            &domain
        };
        let written = format!("{local}@{written}");
        let local = if local.is_ascii() {
            local.to_ascii_lowercase()
        } else {
            local.to_owned()
        };
        let canonical = format!("{local}@{domain}");
        (canonical.len() <= LONGEST).then_some(Self {
            stored: written,
            canonical,
        })
    }

    /// As its owner writes it.
    pub fn stored(&self) -> &str {
        &self.stored
    }

    /// NFC, domain as lower-case A-labels, ASCII local part in lower case; no other folding.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }
}

/// The canonical form of what somebody typed into a call that looks an account up. What can't be an address is simply nobody's: a digest
/// after a space, which no canonical address has. Not the text itself, which may be huge or hold what a database refuses.
pub fn canonical_or_nobody(typed: &str) -> String {
    Email::parse(typed).map_or_else(
        || {
            format!(
                " {}",
                URL_SAFE_NO_PAD.encode(sha256(typed.trim().as_bytes()))
            )
        },
        |email| email.canonical,
    )
}

/// IDNA's mapping (UTS 46) makes full-width, circled and other look-alike letters into plain ones. Of all it does only lower case is
/// wanted, so each label must come out of its A-label form as it was written.
fn is_mapped_by_case_alone(typed: &str, ascii: &str) -> bool {
    let lower: String = typed.to_lowercase().nfc().collect();
    let mut pairs = lower.split('.').zip(ascii.split('.'));
    lower.split('.').count() == ascii.split('.').count()
        && pairs.all(|(typed, ascii)| typed == ascii || idna::domain_to_unicode(ascii).0 == typed)
}

/// RFC 5321 dot-atom; RFC 6531 lets other letters in, but nothing invisible, bent or blank.
fn is_local_part(local: &str) -> bool {
    let atom = |c: char| {
        c.is_ascii_alphanumeric()
            || "!#$%&'*+-/=?^_`{|}~.".contains(c)
            || (!c.is_ascii() && c.is_alphanumeric())
    };
    !local.is_empty()
        && local.len() <= LONGEST_LOCAL
        && local.chars().all(atom)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
}

/// Before IDNA maps it: white space, controls and zero-width characters must not vanish in the mapping.
fn may_stand_in_domain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '.' || (!c.is_ascii() && c.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(typed: &str) -> Option<String> {
        Email::parse(typed).map(|email| email.canonical)
    }

    #[test]
    fn folds_what_the_contract_says_and_nothing_else() {
        let same = Some("ada@example.com".to_owned());
        assert_eq!(canonical(" Ada@EXAMPLE.com\n"), same);
        assert_eq!(canonical("ADA@example.com"), same);
        for other in [
            "a.da@example.com",
            "ada+1@example.com",
            "аda@example.com",
            "ada@exаmple.com",
            "ada@example.co",
        ] {
            assert!(canonical(other).is_some(), "{other} is an address");
            assert_ne!(canonical(other), same, "{other} is another one");
        }
        assert_eq!(
            canonical("ada@BÜCHER.example"),
            canonical("ada@xn--bcher-kva.example")
        );
        assert_eq!(
            canonical("e\u{301}va@example.com"),
            canonical("\u{e9}va@example.com")
        );
    }

    #[test]
    fn is_stored_as_its_owner_writes_it_but_for_the_domain_on_the_wire() {
        let stored = |typed| Email::parse(typed).map(|email| email.stored);
        let ada = "Ada@B\u{fc}cher.example";
        assert_eq!(stored(ada), Some("Ada@xn--bcher-kva.example".to_owned()));
        assert_eq!(
            stored(" Ada@Example.com"),
            Some("Ada@Example.com".to_owned())
        );
    }

    /// M-02: lists, controls, invisible characters and header breaks are no address.
    #[test]
    fn refuses_what_is_no_single_plain_address() {
        for typed in [
            "",
            "@",
            "ada",
            "ada@",
            "@example.com",
            "ada@example",
            "a@b@example.com",
            "ada@example.com,eve@example.com",
            "ada@example.com\neve@example.com",
            "ada@example.com\r\nBcc: eve@example.com",
            "ada\u{200b}@example.com",
            "ada@exam\u{200d}ple.com",
            "ada@example.com\0",
            "<ada@example.com>",
            "\"ada\"@example.com",
            "ada@[127.0.0.1]",
            "ada@127.0.0.1",
            "ada@-example.com",
            "ada@example..com",
            ".ada@example.com",
            "ada@exa mple.com",
            "\u{202e}ada@example.com",
            "ada@\u{ff45}xample.com",
            "ada@\u{24d4}xample.com",
            "ada@ex\u{fb01}.com",
        ] {
            assert_eq!(canonical(typed), None, "{typed:?}");
        }
        assert_eq!(canonical(&format!("{}@example.com", "a".repeat(65))), None);
        assert_eq!(canonical(&format!("a@{}.com", "b.".repeat(130))), None);
    }

    proptest! {
        #[test]
        fn canonical_is_a_fixed_point(typed in "\\PC{0,20}@\\PC{0,20}") {
            if let Some(once) = canonical(&typed) {
                prop_assert_eq!(canonical(&once), Some(once.clone()));
            }
        }
    }
}
