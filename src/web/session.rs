//! Cookies and credentials, in and out.

use http::{HeaderMap, header};

use crate::accounts::session::{Begun, Credential};
use crate::app::App;
use crate::random::Secret;

pub const CUSTOMER: &str = "customerToken";
const USER: &str = "userToken";
pub const DEVICE: &str = "cxDevice";
pub const GRANT: &str = "resetGrant";

/// Where the grant's cookie goes, and nowhere else.
const GRANT_PATH: &str = "/api/v1/user/password-reset";

/// A cookie as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent<'a> {
    Nothing,
    Once(&'a str),
    /// Two of a name: whose is whose can't be known. Or one that is no text, which is as little use.
    Twice,
}

/// Looks a cookie up in all `Cookie` lines; what other cookies hold does not matter.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Sent<'a> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    });
    match (values.next().map(std::str::from_utf8), values.next()) {
        (None, _) => Sent::Nothing,
        (Some(Ok(value)), None) if value.is_ascii() => Sent::Once(value),
        _ => Sent::Twice,
    }
}

/// The first credential present decides alone: bearer token, `customerToken`, `userToken`.
pub fn credential(headers: &HeaderMap) -> Credential {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    if let Some(line) = lines.next() {
        let text = line.to_str().unwrap_or_default();
        let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            return match lines.next() {
                None => Credential::Bearer(Secret::new(token.trim().to_owned())),
                Some(_) => Credential::None,
            };
        }
    }
    for name in [CUSTOMER, USER] {
        match cookie(headers, name) {
            Sent::Nothing => {}
            Sent::Once(value) => return Credential::Cookie(Secret::new(value.to_owned())),
            Sent::Twice => return Credential::None,
        }
    }
    Credential::None
}

/// The lines that a sign-in sets: the session, and the device's long-lived own cookie.
pub fn begun(app: &App, begun: &Begun) -> [String; 2] {
    let life = app.config.accounts.session.device_life.seconds();
    [
        customer(app, &begun.secret),
        line(app, DEVICE, begun.device.reveal(), "Lax", "/", life),
    ]
}

/// The session's cookie, fresh.
pub fn customer(app: &App, secret: &Secret<String>) -> String {
    let life = app.config.accounts.session.idle.seconds();
    line(app, CUSTOMER, secret.reveal(), "Lax", "/", life)
}

/// The grant's cookie.
pub fn grant(app: &App, grant: &Secret<String>) -> String {
    let life = app.config.accounts.reset.confirmed_life.seconds();
    line(app, GRANT, grant.reveal(), "Strict", GRANT_PATH, life)
}

/// The lines that delete our cookies. The device's stays: it is no credential, and its owner is who has just come back.
pub fn forget(app: &App) -> [String; 3] {
    [
        line(app, CUSTOMER, "", "Lax", "/", 0),
        line(app, USER, "", "Lax", "/", 0),
        line(app, GRANT, "", "Strict", GRANT_PATH, 0),
    ]
}

pub fn line(
    app: &App,
    name: &str,
    value: &str,
    same_site: &str,
    path: &str,
    max_age: i64,
) -> String {
    let secure = if app.config.public_origin_is_https() {
        "; Secure"
    } else {
        ""
    };
    format!(
        "{name}={value}; HttpOnly; SameSite={same_site}; Path={path}; Max-Age={max_age}{secure}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                name.parse().expect("a name"),
                value.parse().expect("a value"),
            )
        };
        lines
            .iter()
            .map(pair)
            .collect::<Vec<(http::HeaderName, http::HeaderValue)>>()
            .into_iter()
            .collect()
    }

    #[test]
    fn a_cookie_that_is_no_text_hides_no_other() {
        let line = http::HeaderValue::from_bytes(b"theme=\xff; customerToken=c; cxDevice=\xe9")
            .expect("a value");
        let headers = HeaderMap::from_iter([(header::COOKIE, line)]);
        assert_eq!(cookie(&headers, CUSTOMER), Sent::Once("c"));
        assert_eq!(cookie(&headers, DEVICE), Sent::Twice);
        assert_eq!(cookie(&headers, "customer"), Sent::Nothing);
    }

    #[test]
    fn the_first_credential_present_decides() {
        let shown = |lines: &[(&'static str, &'static str)]| match credential(&headers(lines)) {
            Credential::Bearer(token) => format!("bearer {}", token.reveal()),
            Credential::Cookie(secret) => format!("cookie {}", secret.reveal()),
            Credential::None => "none".to_owned(),
        };
        let both = ("cookie", "userToken=u; customerToken=c");
        assert_eq!(shown(&[("authorization", "Bearer t"), both]), "bearer t");
        assert_eq!(shown(&[both]), "cookie c");
        assert_eq!(shown(&[("authorization", "Basic x"), both]), "cookie c");
        assert_eq!(shown(&[("authorization", "Bearer"), both]), "bearer ");
        assert_eq!(
            shown(&[("cookie", "customerToken=a; customerToken=b")]),
            "none"
        );
        assert_eq!(
            shown(&[("cookie", "customerToken=a"), ("cookie", "customerToken=b")]),
            "none"
        );
        assert_eq!(shown(&[]), "none");
    }
}
