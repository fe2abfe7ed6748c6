//! Every way a call can fail: one enum, one table of status, code and public text (contract, "Everywhere").
//!
//! Internals never reach an answer: they are logged once, at the edge (`web::api`).

use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;

/// What went wrong, as the caller may know it.
#[derive(Debug)]
pub enum Error {
    MissingParameters,
    InvalidEmail,
    /// An optional field of the wrong type or form; its name.
    InvalidField(&'static str),
    Unauthorized,
    AccessDenied,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    /// A message that can't be read in one way only (no row of the contract's table: a client that speaks HTTP never meets it).
    BadRequest,
    BodyTooLarge,
    UriTooLong,
    HeadersTooLarge,
    /// Seconds until it is worth trying again.
    TooManyRequests {
        retry_after: u64,
        /// `RateLimit` and `RateLimit-Policy`, when a limit refuses; boxed, because most errors carry none.
        fields: Option<Box<http::HeaderMap>>,
    },
    /// A downstream service can't be reached or broke off. `precise`: 502 instead of the published 500.
    DownstreamUnavailable {
        precise: bool,
    },
    /// A downstream service did not answer in time. `precise`: 504 instead of the published 500.
    DownstreamTimeout {
        precise: bool,
    },
    /// The hash queue is full. Seconds until it is worth trying again.
    Busy {
        retry_after: u64,
    },
    /// No account at this address (404, as published for the calls that ask for a code).
    AccountNotFound,
    /// The same on `password-reset`, where the published page says 400.
    NoAccountToReset,
    InvalidOtp,
    InvalidRequest,
    /// What to change about the password, one sentence each.
    WeakPassword(Vec<String>),
    AccountExists,
    InvalidCredentials,
    EmailNotVerified,
    InvalidPassword,
    /// An operator's reload that changed nothing: what is wrong with the configuration, one sentence each.
    InvalidConfiguration(Vec<String>),
    /// Anything unhandled. Its source is logged, never shown.
    Internal(Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// Status, stable code and text.
    pub fn public(&self) -> (StatusCode, &'static str, String) {
        let (status, code, text) = match self {
            Self::MissingParameters => (
                400,
                "missing_parameters",
                "Missing One or More Required Parameters",
            ),
            Self::InvalidEmail => (400, "invalid_email", "Invalid email address"),
            Self::InvalidField(name) => {
                return (
                    StatusCode::BAD_REQUEST,
                    "invalid_field",
                    format!("Invalid field: {name}"),
                );
            }
            Self::Unauthorized => (401, "unauthorized", "Unauthorized"),
            Self::AccessDenied => (403, "access_denied", "Access denied"),
            Self::NotFound => (404, "not_found", "Not Found"),
            Self::MethodNotAllowed => (405, "method_not_allowed", "Method Not Allowed"),
            Self::RequestTimeout => (408, "request_timeout", "Request Timeout"),
            Self::BadRequest => (400, "bad_request", "Bad Request"),
            Self::BodyTooLarge => (413, "body_too_large", "Request body too large"),
            Self::UriTooLong => (414, "uri_too_long", "URI Too Long"),
            Self::HeadersTooLarge => (431, "headers_too_large", "Request Header Fields Too Large"),
            Self::TooManyRequests { .. } => (429, "too_many_requests", "Too many requests"),
            Self::Busy { .. } => (429, "busy", "Too many requests"),
            Self::AccountNotFound => (
                404,
                "account_not_found",
                "No Account found with this email address",
            ),
            Self::NoAccountToReset => (
                400,
                "account_not_found",
                "No Account found with this email address",
            ),
            Self::InvalidOtp => (400, "invalid_otp", "Invalid OTP"),
            Self::InvalidRequest => (400, "invalid_request", "Invalid Request"),
            Self::WeakPassword(reasons) => {
                return (StatusCode::BAD_REQUEST, "weak_password", reasons.join(" "));
            }
            Self::AccountExists => (409, "account_exists", "Account already exists"),
            Self::InvalidCredentials => (401, "invalid_credentials", "Invalid email or password"),
            Self::EmailNotVerified => (401, "email_not_verified", "Email address is not verified"),
            Self::InvalidPassword => (400, "invalid_password", "Invalid password"),
            Self::InvalidConfiguration(_) => (
                400,
                "invalid_configuration",
                "The configuration has errors; all stays as it was",
            ),
            Self::DownstreamUnavailable { precise } => (
                if *precise { 502 } else { 500 },
                "downstream_unavailable",
                "Unexpected Error",
            ),
            Self::DownstreamTimeout { precise } => (
                if *precise { 504 } else { 500 },
                "downstream_timeout",
                "Unexpected Error",
            ),
            Self::Internal(_) => (500, "unexpected_error", "Unexpected Error"),
        };
        let status = StatusCode::from_u16(status).expect("the table holds real statuses");
        (status, code, text.to_owned())
    }

    /// Seconds for the `Retry-After` header, where there is one.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Busy { retry_after } => {
                Some(*retry_after)
            }
            _ => None,
        }
    }

    /// An internal failure, from a sentence.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::Internal(what.into().into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal(source) => write!(out, "{source}"),
            other => out.write_str(&other.public().2),
        }
    }
}

impl StdError for Error {}
