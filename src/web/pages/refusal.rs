//! What the pages say when something can't be done: at the field it is about, or on a page of its own.

use std::sync::Arc;

use askama::Template;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

use super::visit::html_response;
use super::{ErrorFor, Pages, armour};
use crate::error::Error;
use crate::web::views::words::wait;
use crate::web::views::{ErrorPage, Errors};

pub const NO_ADDRESS: &str = "Enter your e-mail address.";
pub const NOT_AN_ADDRESS: &str =
    "This cannot be an e-mail address. One looks like name@example.com.";

/// Why a form comes back. The default is no refusal: the page as it is first shown.
#[derive(Debug, Default)]
pub struct Refusal {
    pub status: StatusCode,
    pub errors: Errors,
    /// Seconds.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// What is wrong with the fields, in the order in which they stand on the page. `None`: nothing.
    pub fn of_fields<const N: usize>(wrong: [(&'static str, String); N]) -> Option<Self> {
        let fields: Vec<_> = wrong
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .collect();
        (!fields.is_empty()).then(|| Self {
            status: StatusCode::BAD_REQUEST,
            errors: Errors {
                problem: String::new(),
                fields,
            },
            retry_after: None,
        })
    }

    /// Of a flow's error. `code`: what to say of a code that does not work.
    ///
    /// # Errors
    /// What no form can mend goes on to a page of its own.
    pub fn of(error: Error, code: &str) -> Result<Self, Error> {
        let mut errors = Errors::default();
        match &error {
            Error::InvalidEmail => errors.fields.push(("email", NOT_AN_ADDRESS.to_owned())),
            Error::WeakPassword(reasons) => errors.fields.push(("password", reasons.join(" "))),
            Error::InvalidField("phone") => errors.fields.push((
                "phone",
                "Use the international form: a plus sign, the country code, the number.".to_owned(),
            )),
            Error::InvalidField(name) => errors
                .fields
                .push((name, "Use at most 100 letters.".to_owned())),
            Error::InvalidOtp => errors.fields.push(("code", code.to_owned())),
            // The same for an unknown address, a wrong password, and an address that waits for its code.
            Error::InvalidCredentials => errors.fields.push((
                "password",
                "Address or password is wrong, or the address was never confirmed. “Forgot your password?” helps with all three."
                    .to_owned(),
            )),
            Error::TooManyRequests { retry_after, .. } => {
                errors.problem = format!("Too many tries. Wait {}, then try again.", wait(*retry_after));
            }
            Error::Busy { retry_after } => {
                errors.problem = format!("The server is busy. Try again in {}.", wait(*retry_after));
            }
            _ => return Err(error),
        }
        Ok(Self {
            status: error.public().0,
            errors,
            retry_after: error.retry_after(),
        })
    }
}

impl Pages {
    /// An error of ours as a page.
    pub fn error(&self, answered: &Response, error_for: &ErrorFor, request_id: &str) -> Response {
        let status = answered.status();
        let retry_after = answered.headers().get(header::RETRY_AFTER);
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let back = match status {
            StatusCode::NOT_FOUND => "",
            _ => &error_for.back,
        };
        let mut response = self.render(ErrorPage {
            shell: &self.shell,
            status: status.as_u16(),
            retry_after: seconds.unwrap_or_default(),
            stale_form: false,
            back,
            request_id,
        });
        for name in [header::RETRY_AFTER, header::ALLOW] {
            if let Some(value) = answered.headers().get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        let id = HeaderValue::try_from(request_id).expect("ids are plain text");
        response.headers_mut().insert("x-request-id", id);
        response
    }

    fn render(&self, page: ErrorPage<'_>) -> Response {
        let status = StatusCode::from_u16(page.status).expect("it was a status before");
        let html = page.render().unwrap_or_else(|error| {
            tracing::error!(%error, "the error page can't be written");
            String::new()
        });
        let mut response = html_response(status, html);
        armour(response.headers_mut());
        response
    }
}

/// A form that this browser was not given, or too long ago.
pub fn stale_form(pages: &Arc<Pages>, path: &str, request_id: &str) -> Response {
    pages.render(ErrorPage {
        shell: &pages.shell,
        status: 403,
        retry_after: 0,
        stale_form: true,
        back: path,
        request_id,
    })
}
