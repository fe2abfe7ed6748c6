//! The body of a call: one JSON object, read strictly.

use std::collections::BTreeMap;
use std::fmt;

use axum::body::Body;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::limits::{self, Asked};
use crate::accounts::email::canonical_or_nobody;
use crate::app::App;
use crate::error::Error;
use crate::gateway::gate::Refusal;
use crate::random::Secret;

/// The fields of a call's body. Unknown ones are there and never looked at.
#[derive(Debug)]
pub struct Fields {
    named: BTreeMap<String, Value>,
    asked: Asked,
}

/// The object itself.
struct Object(BTreeMap<String, Value>);

impl Fields {
    /// Reads a whole body: `application/json`, UTF-8, an object, no key twice, within `server.body_limit`.
    ///
    /// # Errors
    /// [`Error::BodyTooLarge`], [`Error::RequestTimeout`], and [`Error::MissingParameters`] for everything that is no JSON object.
    pub async fn read(app: &App, request: Request<Body>) -> Result<Self, Error> {
        let is_json = is_json(request.headers());
        let asked = Asked::of(&request);
        let bytes = read_bytes(app, request).await?;
        if !is_json {
            return Err(Error::MissingParameters);
        }
        let object: Object =
            serde_json::from_slice(&bytes).map_err(|_| Error::MissingParameters)?;
        Ok(Self {
            named: object.0,
            asked,
        })
    }

    /// The address that a complete call is about, charged to the limits by address. To be called when all that is required is there, and
    /// before any look-up.
    ///
    /// # Errors
    /// [`Error::MissingParameters`], [`Error::TooManyRequests`]
    pub fn address(&self, app: &App) -> Result<&str, Error> {
        let email = self.required("email")?;
        limits::charge_address(app, &self.asked, &canonical_or_nobody(email))?;
        Ok(email)
    }

    /// A required field: a string that is not empty.
    ///
    /// # Errors
    /// [`Error::MissingParameters`]
    pub fn required(&self, name: &str) -> Result<&str, Error> {
        match self.named.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            _ => Err(Error::MissingParameters),
        }
    }

    /// An optional field; null is as good as absent.
    ///
    /// # Errors
    /// [`Error::InvalidField`]
    pub fn optional(&self, name: &'static str) -> Result<Option<String>, Error> {
        match self.named.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Error::InvalidField(name)),
        }
    }

    /// The raw value, if the key is present at all.
    pub fn raw(&self, name: &str) -> Option<&Value> {
        self.named.get(name)
    }

    /// A secret that is not read as anything but a string.
    pub fn required_secret(&self, name: &str) -> Result<Secret<String>, Error> {
        self.required(name).map(|text| Secret::new(text.to_owned()))
    }
}

/// Reads a body of at most `server.body_limit` bytes within `server.body_timeout`.
pub async fn read_bytes(app: &App, request: Request<Body>) -> Result<bytes::Bytes, Error> {
    let limit = app.config.server.body_limit;
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(Error::BodyTooLarge);
    }
    let whole = Limited::new(request.into_body(), limit).collect();
    match tokio::time::timeout(app.config.server.body_timeout.std(), whole).await {
        Err(_) => Err(Error::RequestTimeout),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Error::BodyTooLarge),
        Ok(Err(error)) if Refusal::find(&*error).is_some() => Err(Error::BadRequest),
        Ok(Err(_)) => Err(Error::MissingParameters),
    }
}

/// `application/json`, with or without parameters; exactly once.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = first
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(UniqueKeys)
    }
}

/// Refuses an object that names a key twice: two readers could pick different ones.
struct UniqueKeys;

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Object;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object without duplicate keys")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object, M::Error> {
        let mut fields = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if fields.insert(key, value).is_some() {
                return Err(serde::de::Error::custom("duplicate key"));
            }
        }
        Ok(Object(fields))
    }
}
