//! The keyring: one HKDF subkey for each use and purpose (RFC 5869), so that no value made for one use is good for another.
//!
//! Every row in the database names the key it was made under; a key that is removed voids all of its rows.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::{hmac, signature};

use crate::private;
use crate::random::{Code, Random, Secret, tag_from_mac};

/// What a mailed code is for. A code of one purpose never works for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Reset,
    Verify,
}

impl Purpose {
    pub fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Verify => "verify",
        }
    }
}

/// All configured keys. The first signs, all verify.
#[derive(Debug)]
pub struct Keyring(Vec<Key>);

/// One key of `secrets.keys`, by its id.
#[derive(Debug)]
pub struct Key {
    pub id: String,
    root: Prk,
}

impl Keyring {
    /// From `(id, value)` pairs; at least one.
    pub fn new(keys: &[(String, Secret<String>)]) -> Self {
        assert!(!keys.is_empty(), "a keyring has at least one key");
        let extract = |value: &Secret<String>| {
            Salt::new(HKDF_SHA256, b"cargoextra/1").extract(value.reveal().as_bytes())
        };
        Self(
            keys.iter()
                .map(|(id, value)| Key {
                    id: id.clone(),
                    root: extract(value),
                })
                .collect(),
        )
    }

    /// The key that new values are made under.
    pub fn current(&self) -> &Key {
        &self.0[0]
    }

    pub fn find(&self, id: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }
}

impl Key {
    /// The code of a flow, from the flow's nonce. It is kept nowhere; the mail worker derives it again.
    pub fn code(&self, purpose: Purpose, nonce: &[u8]) -> Code {
        Code::from_mac(&self.mac("code-derivation", purpose.name(), nonce))
    }

    /// What a code is found by. It can't be checked without the key.
    pub fn code_lookup(&self, purpose: Purpose, code: &Code) -> Vec<u8> {
        self.mac("code-lookup", purpose.name(), code.bare().as_bytes())
            .to_vec()
    }

    /// The three letters that the screen and the mail of a flow share.
    pub fn tag(&self, purpose: Purpose, nonce: &[u8]) -> String {
        tag_from_mac(&self.mac("tag", purpose.name(), nonce))
    }

    pub fn grant_hash(&self, grant: &str) -> Vec<u8> {
        self.mac("grant", "reset", grant.as_bytes()).to_vec()
    }

    pub fn session_hash(&self, secret: &str) -> Vec<u8> {
        self.mac("session", "cookie", secret.as_bytes()).to_vec()
    }

    pub fn device_hash(&self, secret: &str) -> Vec<u8> {
        self.mac("device", "cookie", secret.as_bytes()).to_vec()
    }

    /// The hash under which a canonical address is counted, registered or not.
    pub fn address_hash(&self, canonical: &str) -> Vec<u8> {
        self.mac("address", "count", canonical.as_bytes()).to_vec()
    }

    /// A client, as far as one can tell two apart: its network and its User-Agent.
    pub fn client_hash(&self, network: &str, user_agent: &str) -> Vec<u8> {
        self.mac(
            "client",
            "network+agent",
            format!("{network}\n{user_agent}").as_bytes(),
        )
        .to_vec()
    }

    /// Seals what our own pages keep in a browser: a purpose each, so that no cookie passes for another.
    pub fn page_seal(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        self.mac("page", purpose, data)
    }

    /// The Ed25519 key pair for a kind of token (RFC 8032), as PKCS #8.
    pub fn signing_key(&self, kind: &'static str) -> Vec<u8> {
        let seed = self.expand("signing", kind);
        let pair = signature::Ed25519KeyPair::from_seed_unchecked(&seed)
            .expect("32 bytes make an Ed25519 key");
        pair.to_pkcs8v1()
            .expect("a key pair can be written down")
            .as_ref()
            .to_vec()
    }

    fn mac(&self, usage: &str, purpose: &str, data: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.expand(usage, purpose));
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&key, data).as_ref());
        out
    }

    fn expand(&self, usage: &str, purpose: &str) -> [u8; 32] {
        let mut out = [0; 32];
        self.root
            .expand(&[usage.as_bytes(), b"/", purpose.as_bytes()], HKDF_SHA256)
            .and_then(|material| material.fill(&mut out))
            .expect("32 bytes are within what HKDF-SHA256 can give");
        out
    }
}

/// The raw public key (32 bytes) of a key pair in PKCS #8.
pub fn public_half(pkcs8: &[u8]) -> Vec<u8> {
    use aws_lc_rs::signature::KeyPair;
    let pair = signature::Ed25519KeyPair::from_pkcs8(pkcs8).expect("a pair that we wrote down");
    pair.public_key().as_ref().to_vec()
}

/// Reads a generated secret, or makes it once: 32 random bytes, file mode 0600.
pub fn load_or_create(path: &Path, random: &Random) -> std::io::Result<Secret<String>> {
    if path.exists() {
        private::check(path)?;
    }
    match fs::read_to_string(path) {
        Ok(text) if text.trim().len() >= 32 => return Ok(Secret::new(text.trim().to_owned())),
        Ok(_) => {
            return Err(std::io::Error::other(
                "the file is shorter than 32 characters",
            ));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(folder) = path.parent() {
        private::folder(folder)?;
    }
    // Whole or not at all, and never over one that another process has just made.
    let draft = path.with_extension(format!("{}.new", random.id(0)));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    writeln!(file, "{}", random.secret().reveal())?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(Secret::new(fs::read_to_string(path)?.trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &str) -> Keyring {
        Keyring::new(&[("k".into(), Secret::new(value.into()))])
    }

    #[test]
    fn uses_and_purposes_do_not_mix() {
        let keys = key("0123456789abcdef0123456789abcdef");
        let key = keys.current();
        let code = key.code(Purpose::Reset, b"nonce");
        assert_ne!(code.bare(), key.code(Purpose::Verify, b"nonce").bare());
        assert_ne!(
            key.code_lookup(Purpose::Reset, &code),
            key.code_lookup(Purpose::Verify, &code)
        );
        assert_ne!(key.session_hash("x"), key.device_hash("x"));
    }

    /// the stored hash does not verify without the key.
    #[test]
    fn another_key_gives_another_hash() {
        let (one, two) = (
            key("0123456789abcdef0123456789abcdef"),
            key(&"x".repeat(32)),
        );
        let code = Code::parse("7K3QM-X9T2B").expect("a code");
        assert_ne!(
            one.current().code_lookup(Purpose::Reset, &code),
            two.current().code_lookup(Purpose::Reset, &code)
        );
    }

    /// codes are uniform over their whole range and do not repeat.
    #[test]
    fn a_million_codes_are_uniform() {
        let keys = key("0123456789abcdef0123456789abcdef");
        let random = Random::seeded(15);
        let mut seen = std::collections::HashSet::new();
        let mut counts = [[0f64; 32]; 10];
        let total = 1_000_000;
        let subkey = keys.current().expand("code-derivation", "reset");
        let mac = hmac::Key::new(hmac::HMAC_SHA256, &subkey);
        for _ in 0..total {
            let nonce: [u8; 16] = random.bytes();
            let mut tag = [0; 32];
            tag.copy_from_slice(hmac::sign(&mac, &nonce).as_ref());
            let code = Code::from_mac(&tag);
            for (place, symbol) in code.bare().bytes().enumerate() {
                let index = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
                    .iter()
                    .position(|s| *s == symbol);
                counts[place][index.expect("a symbol of the alphabet")] += 1.0;
            }
            assert!(seen.insert(code.bare().to_owned()), "a code came twice");
        }
        let expected = f64::from(total) / 32.0;
        for place in counts {
            let chi_square: f64 = place
                .iter()
                .map(|n| (n - expected).powi(2) / expected)
                .sum();
            // 31 degrees of freedom: 73.6 is the 0.99998 quantile; the seed is fixed, so this never flakes.
            assert!(chi_square < 73.6, "chi-square {chi_square}");
        }
    }
}
