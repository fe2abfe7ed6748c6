//! The same strictness for HTTP/2, where a message comes as fields and not as lines.
//!
//! The crate `h2` has refused what RFC 9113 calls malformed (upper-case names, connection-specific fields, a TE other than `trailers`, pseudo
//! fields twice or behind others, a body that is not as long as its Content-Length) by resetting the stream. What is left of the gate's rules
//! is checked here, and the request is made to look as if it had come by HTTP/1: its target in origin form, its authority in Host, its
//! cookies in one line. One thing is lost before: `h2` drops a fragment of `:path`, so nobody behind it sees one.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method};
use http_body::{Body, Frame, SizeHint};

use super::framer::Limits;
use super::lines;
use super::refusal::{Reason, Refusal};

/// What a field takes on HTTP/1 beside name and value: `: ` and the line end.
const FIELD_EXTRA: usize = 4;
/// RFC 9113 section 8.2.2. `h2` resets a stream for any of them; if it ever should not, we refuse.
const CONNECTION_SPECIFIC: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Checks the head of an HTTP/2 request and gives it the form of an HTTP/1 one. Pure.
///
/// # Errors
/// The rule that it broke; `parts` are of no use then.
pub fn check(parts: &mut Parts, limits: &Limits) -> Result<(), Reason> {
    lines::check_method(parts.method.as_str().as_bytes())?;
    check_size(parts, limits)?;
    let target = check_target(&parts.method, &parts.uri, limits)?;
    let host = check_host(&parts.uri, &parts.headers)?;
    check_fields(&parts.headers)?;
    parts.headers.insert(header::HOST, host);
    join_cookies(&mut parts.headers);
    parts.uri = Uri::from(target);
    Ok(())
}

/// As on HTTP/1, where Host would be a field too.
fn check_size(parts: &Parts, limits: &Limits) -> Result<(), Reason> {
    let has_host = parts.headers.contains_key(header::HOST);
    if parts.headers.len() + usize::from(!has_host) > limits.fields {
        return Err(Reason::TooManyFields);
    }
    if bytes_of(&parts.headers) > limits.head_bytes {
        return Err(Reason::HeadTooLarge);
    }
    Ok(())
}

fn bytes_of(fields: &HeaderMap) -> usize {
    let sizes = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_EXTRA);
    sizes.sum()
}

/// The target in origin form, or `*` for OPTIONS.
fn check_target(method: &Method, uri: &Uri, limits: &Limits) -> Result<PathAndQuery, Reason> {
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(Reason::Scheme),
    }
    let target = uri.path_and_query().ok_or(Reason::TargetForm)?;
    if target.as_str().len() > limits.request_line_bytes {
        return Err(Reason::TargetTooLong);
    }
    lines::check_target(method.as_str().as_bytes(), target.as_str().as_bytes())?;
    Ok(target.clone())
}

/// The one host: `:authority`, or Host where a proxy made the request from an HTTP/1 one without (RFC 9113 section 8.3.1).
fn check_host(uri: &Uri, fields: &HeaderMap) -> Result<HeaderValue, Reason> {
    let mut sent = fields.get_all(header::HOST).iter();
    let host = match (uri.authority(), sent.next(), sent.next()) {
        (_, _, Some(_)) => return Err(Reason::DuplicateHost),
        (Some(authority), Some(host), None) if authority.as_str().as_bytes() != host.as_bytes() => {
            return Err(Reason::DuplicateHost);
        }
        (Some(authority), _, None) => {
            HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::Host)?
        }
        (None, Some(host), None) => host.clone(),
        (None, None, None) => return Err(Reason::MissingHost),
    };
    lines::host(host.as_bytes())?;
    Ok(host)
}

fn check_fields(fields: &HeaderMap) -> Result<(), Reason> {
    if CONNECTION_SPECIFIC
        .iter()
        .any(|name| fields.contains_key(name))
    {
        return Err(Reason::Connection);
    }
    if fields.get_all(header::TE).iter().any(|te| te != "trailers") {
        return Err(Reason::Connection);
    }
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        lines::content_length(length.as_bytes())?;
    }
    if lengths.next().is_some() {
        return Err(Reason::DuplicateLength);
    }
    fields.values().try_for_each(check_value)
}

/// HTTP/1 strips white space around a value; here it is malformed (RFC 9113 section 8.2.1).
fn check_value(value: &HeaderValue) -> Result<(), Reason> {
    let bytes = value.as_bytes();
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if is_space(bytes.first()) || is_space(bytes.last()) || lines::has_control(bytes) {
        return Err(Reason::FieldValue);
    }
    Ok(())
}

/// A client may cut its cookies into several fields; whoever reads them wants one line (RFC 9113 section 8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let mut lines = fields.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    // Parts of good values make a good value.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        fields.insert(header::COOKIE, joined);
    }
}

/// The body of an HTTP/2 request, whose trailers are checked as those of a chunked one are.
#[derive(Debug)]
pub struct CheckedBody<B> {
    body: B,
    limits: Limits,
}

impl<B> CheckedBody<B> {
    pub fn new(body: B, limits: Limits) -> Self {
        Self { body, limits }
    }
}

impl<B> Body for CheckedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let checked = frame.map(|frame| {
            let frame = frame.map_err(Into::into)?;
            let trailers = frame.trailers_ref();
            match trailers.map_or(Ok(()), |fields| check_trailers(fields, &this.limits)) {
                Ok(()) => Ok(frame),
                Err(reason) => Err(Refusal {
                    reason,
                    in_body: true,
                }
                .into()),
            }
        });
        Poll::Ready(checked)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn check_trailers(fields: &HeaderMap, limits: &Limits) -> Result<(), Reason> {
    if fields.len() > limits.fields {
        return Err(Reason::TooManyFields);
    }
    if bytes_of(fields) > limits.head_bytes {
        return Err(Reason::HeadTooLarge);
    }
    for (name, value) in fields {
        lines::trailer_name(name.as_str().as_bytes())?;
        check_value(value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
