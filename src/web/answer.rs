//! What we answer with: a JSON object with a sentence for a person, and for errors what a program needs.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::error::Error;

/// A successful answer.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    body: Map<String, Value>,
    cookies: Vec<String>,
    no_store: bool,
}

impl Answer {
    /// 200 with a message.
    pub fn ok(message: &str) -> Self {
        let mut body = Map::new();
        body.insert("message".to_owned(), message.into());
        Self {
            status: StatusCode::OK,
            body,
            cookies: Vec::new(),
            no_store: false,
        }
    }

    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.body.insert(name.to_owned(), value.into());
        self
    }

    /// A `Set-Cookie` line.
    pub fn cookie(mut self, line: String) -> Self {
        self.cookies.push(line);
        self
    }

    /// Carries a grant, token, code or user: `Cache-Control: no-store`.
    pub fn no_store(mut self) -> Self {
        self.no_store = true;
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &Value::Object(self.body));
        let headers = response.headers_mut();
        for line in self.cookies {
            let line = HeaderValue::try_from(line).expect("cookies are made of plain text");
            headers.append(header::SET_COOKIE, line);
        }
        if self.no_store {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }
}

/// An error on its way out: `finish` writes the body, once the request's id is at hand.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.public().0;
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// The code of the error that [`finish`] has to write, if it has.
pub fn error_code(response: &Response) -> Option<&'static str> {
    let error = response.extensions().get::<Arc<Error>>();
    error.map(|error| error.public().1)
}

/// Writes the body of an error, logs what is internal (here and nowhere else), and names the request.
pub fn finish(response: Response, request_id: &str) -> Response {
    let (mut parts, mut body) = response.into_parts();
    if let Some(error) = parts.extensions.remove::<Arc<Error>>() {
        if let Error::Internal(source) = &*error {
            tracing::error!(request = request_id, error = %source, "unexpected error");
        }
        let rendered = render(&error, request_id);
        parts.status = rendered.status();
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.extend(rendered.headers().clone());
        body = rendered.into_body();
    }
    let id = HeaderValue::try_from(request_id).expect("ids are plain text");
    parts.headers.insert("x-request-id", id);
    Response::from_parts(parts, body)
}

fn render(error: &Error, request_id: &str) -> Response {
    let (status, code, message) = error.public();
    let mut body = json!({ "message": message, "code": code, "requestId": request_id });
    match error {
        Error::InvalidField(name) => body["field"] = (*name).into(),
        Error::WeakPassword(reasons) => body["reasons"] = reasons.clone().into(),
        Error::InvalidConfiguration(problems) => body["problems"] = problems.clone().into(),
        _ => {}
    }
    let mut response = json_response(status, &body);
    if let Error::TooManyRequests {
        fields: Some(fields),
        ..
    } = error
    {
        response.headers_mut().extend((**fields).clone());
    }
    if let Some(seconds) = error.retry_after() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

pub fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
