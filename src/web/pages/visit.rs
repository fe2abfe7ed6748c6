//! One request for a page: who asks, what the browser keeps for us, and the answer with what it is to keep.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use askama::Template;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pages;
use super::kept::{self, BROWSER, Slot, TOLD, Told};
use super::refusal::{self, Refusal};
use crate::accounts::Client;
use crate::accounts::session::{Credential, SignedIn, authenticate};
use crate::app::App;
use crate::error::Error;
use crate::web::fields::read_bytes;
use crate::web::session::{self, Sent};
use crate::web::views::Shell;

/// How a handler of a page ends.
pub type Answered = Result<Response, Error>;

/// A secret of ours has so many characters.
const BROWSER_LENGTH: usize = 43;

#[derive(Debug)]
pub struct Visit {
    pages: Arc<Pages>,
    pub client: Client,
    headers: HeaderMap,
    cookies: Vec<String>,
}

impl Visit {
    fn of(parts: &Parts, pages: &Arc<Pages>) -> Self {
        let known = parts.extensions.get::<Client>().cloned();
        // From here on every flow is uniform, and a confirm never falls back to "the same client".
        let client = Client {
            page: true,
            ..known.unwrap_or_default()
        };
        Self {
            pages: pages.clone(),
            client,
            headers: parts.headers.clone(),
            cookies: Vec::new(),
        }
    }

    pub fn app(&self) -> &App {
        &self.pages.app
    }

    pub fn shell(&self) -> &Shell {
        &self.pages.shell
    }

    /// The token for the forms of this page; the browser gets, or keeps, what it is bound to.
    pub fn csrf(&mut self) -> String {
        let browser = match self.browser() {
            Some(known) => known.to_owned(),
            None => self.app().random.secret().reveal().to_owned(),
        };
        let token = kept::form_token(self.app(), &browser);
        let life = kept::BROWSER_LIFE;
        // Lax: were it not sent with the first request from a mail's link, that request would make the forms of all other tabs stale.
        let line = session::line(self.app(), BROWSER, &browser, "Lax", kept::PATH, life);
        self.cookies.push(line);
        token
    }

    fn browser(&self) -> Option<&str> {
        match session::cookie(&self.headers, BROWSER) {
            Sent::Once(value) if value.len() == BROWSER_LENGTH => Some(value),
            _ => None,
        }
    }

    pub fn read<T: Serialize + DeserializeOwned>(&self, slot: &Slot<T>) -> Option<T> {
        slot.read(self.app(), &self.headers)
    }

    pub fn keep<T: Serialize + DeserializeOwned>(&mut self, slot: &Slot<T>, value: &T) {
        let line = slot.keep(self.app(), value);
        self.cookies.push(line);
    }

    pub fn forget<T: Serialize + DeserializeOwned>(&mut self, slot: &Slot<T>) {
        let line = slot.forget(self.app());
        self.cookies.push(line);
    }

    /// `Set-Cookie` lines of the session.
    pub fn set(&mut self, lines: impl IntoIterator<Item = String>) {
        self.cookies.extend(lines);
    }

    /// Has the next page say something, once.
    pub fn tell(&mut self, page: &str, text: &str, email: &str) {
        let told = Told {
            page: page.to_owned(),
            text: text.to_owned(),
            email: email.to_owned(),
        };
        self.keep(&TOLD, &told);
    }

    /// What this page is to say.
    pub fn told(&mut self, page: &str) -> Told {
        match self.read(&TOLD) {
            Some(told) if told.page == page => {
                self.forget(&TOLD);
                told
            }
            _ => Told::default(),
        }
    }

    /// Whose session this is, if anybody's.
    pub async fn signed_in(&self) -> Result<Option<(Credential, SignedIn)>, Error> {
        let credential = session::credential(&self.headers);
        match authenticate(self.app(), &credential).await {
            Ok(caller) => Ok(Some((credential, caller))),
            Err(Error::Unauthorized) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the browser sent a session, good or bad.
    pub fn has_session_cookie(&self) -> bool {
        session::cookie(&self.headers, session::CUSTOMER) != Sent::Nothing
    }

    /// The page, with the status of a refusal.
    pub fn show(&self, refusal: &Refusal, page: &impl Template) -> Answered {
        let html = page
            .render()
            .map_err(|error| Error::Internal(Box::new(error)))?;
        let mut response = html_response(refusal.status, html);
        if let Some(seconds) = refusal.retry_after {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        Ok(self.with_cookies(response))
    }

    /// 303: the next page.
    pub fn go(&self, to: &'static str) -> Response {
        let mut response = StatusCode::SEE_OTHER.into_response();
        let to = HeaderValue::from_static(to);
        response.headers_mut().insert(header::LOCATION, to);
        self.with_cookies(response)
    }

    fn with_cookies(&self, mut response: Response) -> Response {
        for line in &self.cookies {
            let line = HeaderValue::try_from(line).expect("cookies are made of plain text");
            response.headers_mut().append(header::SET_COOKIE, line);
        }
        response
    }
}

impl FromRequestParts<Arc<Pages>> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        pages: &Arc<Pages>,
    ) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts, pages))
    }
}

/// A form that was sent, from a page that this browser was given.
#[derive(Debug)]
pub struct Form(BTreeMap<String, String>);

impl Form {
    /// What stands in a field; nothing for one that was not sent.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// What stands in an optional field, without space around it.
    pub fn optional(&self, name: &str) -> Option<String> {
        let text = self.text(name).trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl FromRequest<Arc<Pages>> for Form {
    type Rejection = Response;

    async fn from_request(
        request: Request<Body>,
        pages: &Arc<Pages>,
    ) -> Result<Self, Self::Rejection> {
        let (parts, body) = request.into_parts();
        let visit = Visit::of(&parts, pages);
        let path = parts.uri.path().to_owned();
        let is_form = is_form(&parts.headers);
        let bytes = read_bytes(&pages.app, Request::from_parts(parts, body)).await;
        let bytes = bytes.map_err(IntoResponse::into_response)?;
        let fields = fields(&bytes).filter(|_| is_form);
        let form = Self(fields.ok_or_else(|| Error::MissingParameters.into_response())?);
        let browser = visit.browser();
        if browser
            .is_some_and(|browser| kept::is_form_token(&pages.app, browser, form.text("csrf")))
        {
            Ok(form)
        } else {
            Err(refusal::stale_form(pages, &path, &visit.client.request_id))
        }
    }
}

/// The fields of a form; `None` if one comes twice (two readers could pick different ones) or is not UTF-8.
fn fields(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(body) {
        // What the parser puts where the bytes are no text; nobody types it.
        let is_text = !name.contains('\u{fffd}') && !value.contains('\u{fffd}');
        let again = fields.insert(name.into_owned(), value.into_owned());
        if again.is_some() || !is_text {
            return None;
        }
    }
    Some(fields)
}

/// Exactly one `application/x-www-form-urlencoded`, with or without parameters.
fn is_form(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = first.to_str().unwrap_or_default().split(';').next();
    essence.is_some_and(|essence| {
        essence
            .trim()
            .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    })
}

pub fn html_response(status: StatusCode, html: String) -> Response {
    let mut response = Response::new(Body::from(html));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_comes_twice_or_is_no_text_refuses_the_form() {
        let good = fields(b"email=ada%40example.com&password=a+b%26").expect("a form");
        assert_eq!(good["email"], "ada@example.com");
        assert_eq!(good["password"], "a b&");
        assert_eq!(fields(b"a=1&a=2"), None);
        assert_eq!(fields(b"a=%ff"), None);
        assert_eq!(fields(b"").map(|fields| fields.len()), Some(0));
    }
}
