//! Signed tokens (JWT, EdDSA only): the access token that names a session. It is for us alone; the session's row decides.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::clock::Millis;
use crate::keys::{Key, Keyring};
use crate::random::Secret;

/// RFC 9068: what an access token calls itself, so that no other token of ours passes for one.
const ACCESS_TYPE: &str = "at+jwt";

/// The keys of one kind of token.
pub struct Tokens {
    origin: String,
    keys: Vec<Pair>,
}

struct Pair {
    id: String,
    encode: EncodingKey,
    decode: DecodingKey,
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
        let pair = |key: &Key| {
            let der = key.signing_key("access");
            let encode = EncodingKey::from_ed_der(&der);
            let decode = DecodingKey::from_ed_der(&crate::keys::public_half(&der));
            Pair {
                id: key.id.clone(),
                encode,
                decode,
            }
        };
        Self {
            origin: origin.to_owned(),
            keys: keys.iter().map(pair).collect(),
        }
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
        let pair = &self.keys[0];
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(ACCESS_TYPE.to_owned());
        header.kid = Some(pair.id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &pair.encode);
        Secret::new(token.expect("plain claims can be signed"))
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

impl std::fmt::Debug for Tokens {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Tokens")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
