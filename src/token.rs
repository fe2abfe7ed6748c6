//! Signed tokens (JWT, EdDSA only): the access token, which names a session and is for us alone, and the assertion, by which a downstream
//! service can verify who is signed in. Each has keys, issuer and type of its own, so that neither passes for the other.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Millis;
use crate::keys::{Key, Keyring};
use crate::random::Secret;

/// RFC 9068: what an access token calls itself, so that no other token of ours passes for one.
const ACCESS_TYPE: &str = "at+jwt";

const ASSERTION_TYPE: &str = "assertion+jwt";
/// Seconds (contract, "Forwarding").
const ASSERTION_LIFE: i64 = 60;
/// An assertion is used again for so long; what is left of its life bounds the clock's error of a downstream service.
const ASSERTION_REUSE: Millis = 20_000;
/// Assertions kept for reuse.
const ASSERTIONS_KEPT: usize = 20_000;

/// The keys of both kinds of token.
pub struct Tokens {
    origin: String,
    keys: Vec<Pair>,
    assertion: Pair,
    jwks: Value,
    /// By session and audience: signing costs more than all else that a proxied request needs.
    fresh: Mutex<HashMap<(String, String), (Millis, Secret<String>)>>,
}

struct Pair {
    id: String,
    encode: EncodingKey,
    decode: DecodingKey,
}

/// What an assertion says.
#[derive(Debug, Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    /// The route's name.
    aud: &'a str,
    /// Account id.
    sub: &'a str,
    email: &'a str,
    role: &'a str,
    iat: i64,
    exp: i64,
}

/// What an access token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Access {
    pub iss: String,
    pub aud: String,
    /// Account id.
    pub sub: String,
    /// Session id.
    pub sid: String,
    /// Seconds since 1970.
    pub iat: i64,
    /// Seconds since 1970.
    pub exp: i64,
}

impl Tokens {
    /// Derives the signing keys; `origin` is issuer and audience.
    pub fn new(keys: &Keyring, origin: &str) -> Self {
        let jwk = |key: &Key| {
            let public = crate::keys::public_half(&key.signing_key("assertion"));
            json!({
                "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
                "kid": key.id, "x": URL_SAFE_NO_PAD.encode(public),
            })
        };
        Self {
            origin: origin.to_owned(),
            keys: keys.iter().map(|key| Pair::of(key, "access")).collect(),
            assertion: Pair::of(keys.current(), "assertion"),
            jwks: json!({ "keys": keys.iter().map(jwk).collect::<Vec<Value>>() }),
            fresh: Mutex::default(),
        }
    }

    /// The public keys of assertions (RFC 7517). Those of access tokens are nobody's business.
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// An assertion for a route, at most 20 s old, good for at least another 40.
    pub fn assertion(
        &self,
        session: &str,
        account: &str,
        email: &str,
        route: &str,
        now: Millis,
    ) -> Secret<String> {
        let place = (session.to_owned(), route.to_owned());
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, token)) = fresh.get(&place)
            && now - made < ASSERTION_REUSE
        {
            return token.clone();
        }
        let claims = Assertion {
            iss: &format!("{}/gateway", self.origin),
            aud: route,
            sub: account,
            email,
            role: "customer",
            iat: now / 1000,
            exp: now / 1000 + ASSERTION_LIFE,
        };
        let token = self.assertion.sign(ASSERTION_TYPE, &claims);
        if fresh.len() >= ASSERTIONS_KEPT {
            fresh.clear();
        }
        fresh.insert(place, (now, token.clone()));
        token
    }

    /// An access token for a session, good for `life` milliseconds if the session lives as long.
    pub fn access(
        &self,
        account: &str,
        session: &str,
        now: Millis,
        life: Millis,
    ) -> Secret<String> {
        let claims = Access {
            iss: self.origin.clone(),
            aud: self.origin.clone(),
            sub: account.to_owned(),
            sid: session.to_owned(),
            iat: now / 1000,
            exp: (now + life) / 1000,
        };
        self.keys[0].sign(ACCESS_TYPE, &claims)
    }

    /// What a token says, if it is one of ours, for us, of this type, and not expired.
    pub fn verify_access(&self, token: &str, now: Millis) -> Option<Access> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.typ.as_deref() != Some(ACCESS_TYPE) {
            return None;
        }
        let pair = self
            .keys
            .iter()
            .find(|pair| Some(&pair.id) == header.kid.as_ref())?;
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_audience(&[&self.origin]);
        rules.set_issuer(&[&self.origin]);
        // By our clock, not the library's.
        rules.validate_exp = false;
        let claims = jsonwebtoken::decode::<Access>(token, &pair.decode, &rules)
            .ok()?
            .claims;
        (claims.exp > now / 1000).then_some(claims)
    }
}

impl Pair {
    fn of(key: &Key, kind: &'static str) -> Self {
        let der = key.signing_key(kind);
        let decode = DecodingKey::from_ed_der(&crate::keys::public_half(&der));
        Self {
            id: key.id.clone(),
            encode: EncodingKey::from_ed_der(&der),
            decode,
        }
    }

    fn sign(&self, kind: &str, claims: &impl Serialize) -> Secret<String> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(kind.to_owned());
        header.kid = Some(self.id.clone());
        let token = jsonwebtoken::encode(&header, claims, &self.encode);
        Secret::new(token.expect("plain claims can be signed"))
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tokens")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
