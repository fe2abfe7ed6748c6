//! Why a message was refused, and the bare answer that says so.

use std::error::Error;
use std::fmt;
use std::io;

/// The rule that a message broke: a log field, a metric label, and the source of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// More than one empty line before a request line (RFC 9112 §2.2).
    LeadingLines,
    /// A line that ends in LF without CR (RFC 9112 §2.2 lets a recipient take it; two readings).
    BareLf,
    /// A request line that is not `method SP target SP version` (RFC 9112 §3).
    RequestLine,
    /// A method that is no token (RFC 9110 §9.1).
    Method,
    /// A method longer than any that exists.
    MethodTooLong,
    /// CONNECT or TRACE.
    MethodNotAllowed,
    /// A target that is not in origin form, nor `OPTIONS *` (RFC 9112 §3.2).
    TargetForm,
    /// An HTTP/2 request for something else than http or https.
    Scheme,
    /// A byte in the target that RFC 3986 does not allow there, a fragment, or a backslash.
    TargetCharacter,
    /// A request line over the limit.
    TargetTooLong,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// A line that continues the one before it (RFC 9112 §5.2).
    ObsoleteFold,
    /// White space between field name and colon (RFC 9112 §5.1).
    SpaceBeforeColon,
    /// A field name that is empty or no token, or a line without a colon.
    FieldName,
    /// A control character in a field value, bare CR and NUL included (RFC 9110 §5.5).
    FieldValue,
    /// More field lines than the limit.
    TooManyFields,
    /// A head or trailer section over the limit.
    HeadTooLarge,
    /// Two Host fields (RFC 9112 §3.2), or one that is not `:authority` (RFC 9113 §8.3.1).
    DuplicateHost,
    /// No Host field in an HTTP/1.1 request.
    MissingHost,
    /// A Host that is not `host [":" port]`.
    Host,
    /// Two Content-Length fields, equal or not.
    DuplicateLength,
    /// A Content-Length that is not 1 to 19 digits.
    Length,
    /// Content-Length beside Transfer-Encoding (RFC 9112 §6.1).
    LengthAndEncoding,
    /// `chunked` twice, an empty list, or two Transfer-Encoding fields.
    Encoding,
    /// A transfer coding other than `chunked`.
    UnknownEncoding,
    /// Transfer-Encoding in an HTTP/1.0 request.
    EncodingInHttp10,
    /// A Connection field that is no list of tokens, or would strip a field that we rely on; a field of the connection in HTTP/2.
    Connection,
    /// A chunk size line that is not 1 to 16 hex digits and CRLF (RFC 9112 §7.1).
    ChunkSize,
    /// A chunk extension with control characters, or too long (RFC 9112 §7.1.1).
    ChunkExtension,
    /// Chunk data that CRLF does not follow.
    ChunkEnd,
    /// A trailer field that would frame, route, authorise or modify (RFC 9110 §6.5.1).
    ForbiddenTrailer,
    /// The head was begun and not finished in time.
    HeadTimeout,
}

impl Reason {
    /// The status that answers this reason.
    pub const fn status(self) -> u16 {
        match self {
            Reason::MethodNotAllowed => 405,
            Reason::HeadTimeout => 408,
            Reason::TargetTooLong => 414,
            Reason::TooManyFields | Reason::HeadTooLarge => 431,
            Reason::MethodTooLong | Reason::UnknownEncoding => 501,
            Reason::Version => 505,
            _ => 400,
        }
    }

    /// A stable name for logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::LeadingLines => "leading_lines",
            Reason::BareLf => "bare_lf",
            Reason::RequestLine => "request_line",
            Reason::Method => "method",
            Reason::MethodTooLong => "method_too_long",
            Reason::MethodNotAllowed => "method_not_allowed",
            Reason::TargetForm => "target_form",
            Reason::Scheme => "scheme",
            Reason::TargetCharacter => "target_character",
            Reason::TargetTooLong => "target_too_long",
            Reason::Version => "version",
            Reason::ObsoleteFold => "obsolete_fold",
            Reason::SpaceBeforeColon => "space_before_colon",
            Reason::FieldName => "field_name",
            Reason::FieldValue => "field_value",
            Reason::TooManyFields => "too_many_fields",
            Reason::HeadTooLarge => "head_too_large",
            Reason::DuplicateHost => "duplicate_host",
            Reason::MissingHost => "missing_host",
            Reason::Host => "host",
            Reason::DuplicateLength => "duplicate_length",
            Reason::Length => "length",
            Reason::LengthAndEncoding => "length_and_encoding",
            Reason::Encoding => "encoding",
            Reason::UnknownEncoding => "unknown_encoding",
            Reason::EncodingInHttp10 => "encoding_in_http10",
            Reason::Connection => "connection",
            Reason::ChunkSize => "chunk_size",
            Reason::ChunkExtension => "chunk_extension",
            Reason::ChunkEnd => "chunk_end",
            Reason::ForbiddenTrailer => "forbidden_trailer",
            Reason::HeadTimeout => "head_timeout",
        }
    }
}

/// RFC 9110 §15.5.6: a 405 names what is allowed.
const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// A refused message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that the message broke.
    pub reason: Reason,
    /// The fault lies behind the head, so the service has seen the request already: it gets an
    /// error from the body and answers itself (see [`Refusal::find`]).
    pub in_body: bool,
}

impl Refusal {
    /// The status of the answer.
    pub const fn status(&self) -> u16 {
        self.reason.status()
    }

    /// Reason phrase (also the `message`) and `code` of the answer.
    const fn texts(&self) -> (&'static str, &'static str) {
        match self.status() {
            405 => ("Method Not Allowed", "method_not_allowed"),
            408 => ("Request Timeout", "request_timeout"),
            414 => ("URI Too Long", "uri_too_long"),
            431 => ("Request Header Fields Too Large", "headers_too_large"),
            501 => ("Not Implemented", "not_implemented"),
            505 => ("HTTP Version Not Supported", "http_version_not_supported"),
            _ => ("Bad Request", "bad_request"),
        }
    }

    /// The whole answer as it goes out. It never repeats a byte of the refused message.
    ///
    /// `request_id` must be a plain token: it stands in a field and in JSON unescaped.
    pub fn answer(&self, request_id: Option<&str>) -> Vec<u8> {
        let (phrase, _) = self.texts();
        let body = self.body(request_id);
        let id = request_id.map_or(String::new(), |id| format!("x-request-id: {id}\r\n"));
        let allow = match self.status() {
            405 => format!("allow: {ALLOW}\r\n"),
            _ => String::new(),
        };
        format!(
            "HTTP/1.1 {} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             {allow}{id}connection: close\r\n\r\n{body}",
            self.status(),
            body.len(),
        )
        .into_bytes()
    }

    /// The same for HTTP/2, where the connection lives on.
    pub fn response(&self, request_id: &str) -> http::Response<String> {
        let mut response = http::Response::builder()
            .status(self.status())
            .header("content-type", "application/json")
            .header("x-request-id", request_id);
        if self.status() == 405 {
            response = response.header("allow", ALLOW);
        }
        let body = self.body(Some(request_id));
        response.body(body).expect("plain text makes good fields")
    }

    fn body(&self, request_id: Option<&str>) -> String {
        let (phrase, code) = self.texts();
        match request_id {
            Some(id) => format!(r#"{{"message":"{phrase}","code":"{code}","requestId":"{id}"}}"#),
            None => format!(r#"{{"message":"{phrase}","code":"{code}"}}"#),
        }
    }

    /// The refusal behind an error, if that is what it is.
    ///
    /// A service calls this with the error that a request body gave it: only this tells a fault of
    /// the client (400) from one of the downstream (500).
    pub fn find(error: &(dyn Error + 'static)) -> Option<Refusal> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(refusal) = error.downcast_ref::<Refusal>() {
                return Some(*refusal);
            }
            // `io::Error::source` skips the error that it wraps.
            let wrapped = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref);
            next = match wrapped {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request refused: {}", self.reason.as_str())
    }
}

impl Error for Refusal {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, refusal)
    }
}
