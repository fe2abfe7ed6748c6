//! The OpenAPI 3.1 description, generated from one table and from [`Error`], whose texts and codes are the answers themselves.

use serde_json::{Map, Value, json};

use crate::error::Error;

/// One call of the API.
struct Call {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    required: &'static [&'static str],
    optional: &'static [&'static str],
    /// Status, and the fields beside `message`.
    success: (u16, &'static [&'static str]),
    errors: fn() -> Vec<Error>,
    signed_in: bool,
}

const CALLS: &[Call] = &[
    Call {
        method: "post",
        path: "/api/v1/user/forgot-password",
        summary: "Ask for a code to set a new password",
        required: &["email"],
        optional: &[],
        success: (200, &["reference", "expiresIn", "resendAfter"]),
        errors: || vec![Error::AccountNotFound],
        signed_in: false,
    },
    Call {
        method: "post",
        path: "/api/v1/user/confirm-otp-reset",
        summary: "Confirm the code from the mail",
        required: &["resetToken"],
        optional: &["proof"],
        success: (200, &["email", "resetGrant"]),
        errors: || vec![Error::InvalidOtp, Error::InvalidField("proof")],
        signed_in: false,
    },
    Call {
        method: "post",
        path: "/api/v1/user/password-reset",
        summary: "Completes password reset after OTP confirmation",
        required: &["email", "password"],
        optional: &["resetGrant"],
        success: (200, &[]),
        errors: || {
            vec![
                Error::NoAccountToReset,
                Error::InvalidRequest,
                weak(),
                busy(),
            ]
        },
        signed_in: false,
    },
    Call {
        method: "post",
        path: "/api/v1/user/register",
        summary: "Register an account",
        required: &["email", "password"],
        optional: &["firstName", "lastName", "phone"],
        success: (201, &["reference"]),
        errors: || {
            let field = Error::InvalidField("phone");
            vec![
                Error::InvalidEmail,
                field,
                weak(),
                Error::AccountExists,
                busy(),
            ]
        },
        signed_in: false,
    },
    Call {
        method: "post",
        path: "/api/v1/user/verify-email",
        summary: "Confirm the address with the code from the mail",
        required: &["verifyToken"],
        optional: &[],
        success: (200, &["email"]),
        errors: || vec![Error::InvalidOtp],
        signed_in: false,
    },
    Call {
        method: "post",
        path: "/api/v1/user/resend-verification",
        summary: "Ask for the code of a registration again",
        required: &["email"],
        optional: &[],
        success: (200, &["reference"]),
        errors: || vec![Error::AccountNotFound],
        signed_in: false,
    },
    Call {
        method: "post",
        path: "/api/v1/user/login",
        summary: "Sign in",
        required: &["email", "password"],
        optional: &[],
        success: (200, &["token", "user"]),
        errors: || vec![Error::InvalidCredentials, Error::EmailNotVerified, busy()],
        signed_in: false,
    },
    Call {
        method: "get",
        path: "/api/v1/user/check",
        summary: "Who is signed in; gives a new token",
        required: &[],
        optional: &[],
        success: (200, &["token", "user"]),
        errors: Vec::new,
        signed_in: true,
    },
    Call {
        method: "post",
        path: "/api/v1/user/logout",
        summary: "Sign out",
        required: &[],
        optional: &[],
        success: (200, &[]),
        errors: Vec::new,
        signed_in: true,
    },
    Call {
        method: "post",
        path: "/api/v1/user/logout-all",
        summary: "Sign out everywhere",
        required: &[],
        optional: &[],
        success: (200, &[]),
        errors: Vec::new,
        signed_in: true,
    },
    Call {
        method: "get",
        path: "/api/v1/user/sessions",
        summary: "The account's live sessions",
        required: &[],
        optional: &[],
        success: (200, &["sessions"]),
        errors: Vec::new,
        signed_in: true,
    },
    Call {
        method: "delete",
        path: "/api/v1/user/sessions/{id}",
        summary: "End one session",
        required: &[],
        optional: &[],
        success: (200, &[]),
        errors: || vec![Error::NotFound],
        signed_in: true,
    },
];

fn weak() -> Error {
    Error::WeakPassword(vec!["Use at least 8 characters.".to_owned()])
}

fn busy() -> Error {
    Error::Busy { retry_after: 1 }
}

/// Errors that every call can answer with; a call with a body some more.
fn common(call: &Call) -> Vec<Error> {
    let mut errors = vec![Error::AccessDenied];
    if !call.required.is_empty() {
        errors.extend([
            Error::MissingParameters,
            Error::BodyTooLarge,
            Error::RequestTimeout,
        ]);
    }
    if call.signed_in {
        errors.push(Error::Unauthorized);
    }
    errors.push(Error::TooManyRequests {
        retry_after: 1,
        fields: None,
    });
    errors.push(Error::internal(""));
    errors
}

/// The document, for a server at `origin`.
pub fn document(origin: &str) -> Value {
    let mut paths = Map::new();
    for call in CALLS {
        let path = paths.entry(call.path).or_insert_with(|| json!({}));
        path[call.method] = operation(call);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "CargoExtra Gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Accounts and their recovery. Every answer is an object with `message`; errors add `code` and `requestId`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": origin }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
                "cookie": { "type": "apiKey", "in": "cookie", "name": "customerToken" },
            },
            "schemas": { "Error": error_schema() },
        },
    })
}

/// Method and path of every call described.
pub fn calls() -> impl Iterator<Item = (&'static str, &'static str)> {
    CALLS.iter().map(|call| (call.method, call.path))
}

fn operation(call: &Call) -> Value {
    let name = call
        .path
        .trim_start_matches("/api/v1/user/")
        .replace("/{id}", "-one");
    let mut operation = json!({
        "operationId": format!("{}-{name}", call.method),
        "summary": call.summary,
        "tags": ["user"],
        "responses": responses(call),
    });
    if call.path.contains("{id}") {
        operation["parameters"] = json!([{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }]);
    }
    if !call.required.is_empty() {
        let fields = call.required.iter().chain(call.optional);
        let properties: Map<String, Value> = fields
            .map(|name| ((*name).to_owned(), field(name)))
            .collect();
        let schema =
            json!({ "type": "object", "required": call.required, "properties": properties });
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    if call.signed_in {
        operation["security"] = json!([{ "bearer": [] }, { "cookie": [] }]);
    }
    operation
}

fn responses(call: &Call) -> Map<String, Value> {
    let mut all = Map::new();
    let (status, fields) = call.success;
    let mut properties: Map<String, Value> = fields
        .iter()
        .map(|name| ((*name).to_owned(), field(name)))
        .collect();
    properties.insert("message".to_owned(), json!({ "type": "string" }));
    let required: Vec<&String> = properties.keys().collect();
    let schema = json!({ "type": "object", "required": required, "properties": properties });
    all.insert(
        status.to_string(),
        json!({ "description": call.summary, "content": { "application/json": { "schema": schema } } }),
    );
    for error in (call.errors)().into_iter().chain(common(call)) {
        let (status, code, message) = error.public();
        let entry = all.entry(status.as_str()).or_insert_with(|| {
            json!({
                "description": "",
                "content": { "application/json": {
                    "schema": { "$ref": "#/components/schemas/Error" },
                    "examples": {},
                } },
            })
        });
        let said = entry["description"].as_str().unwrap_or_default();
        let said = if said.is_empty() {
            message.clone()
        } else {
            format!("{said} · {message}")
        };
        entry["description"] = said.into();
        entry["content"]["application/json"]["examples"][code] = json!({ "value": {
            "message": message, "code": code, "requestId": "01kb3v6q7m0000000000000000",
        } });
        if error.retry_after().is_some() {
            entry["headers"]["Retry-After"] =
                json!({ "description": "seconds", "schema": { "type": "integer" } });
        }
    }
    all
}

fn field(name: &str) -> Value {
    match name {
        "email" => json!({ "type": "string", "format": "email", "maxLength": 254 }),
        "password" => {
            json!({ "type": "string", "format": "password", "minLength": 8, "maxLength": 256 })
        }
        "resetToken" | "verifyToken" => {
            json!({ "type": "string", "description": "the code from the mail", "examples": ["7K3QM-X9T2B"] })
        }
        "proof" => {
            json!({ "type": "string", "enum": ["grant"], "description": "give up the fallback without a grant" })
        }
        "resetGrant" => {
            json!({ "type": "string", "description": "proof for password-reset; also in the cookie resetGrant and taken from the header x-reset-grant" })
        }
        "reference" => {
            json!({ "type": "string", "description": "three letters that the mail shows too", "examples": ["KTR"] })
        }
        "expiresIn" | "resendAfter" => json!({ "type": "integer", "description": "seconds" }),
        "phone" => {
            json!({ "type": ["string", "null"], "description": "E.164", "examples": ["+4915112345678"] })
        }
        "firstName" | "lastName" => json!({ "type": ["string", "null"], "maxLength": 100 }),
        "user" => user_schema(),
        "sessions" => json!({ "type": "array", "items": {
            "type": "object",
            "required": ["id", "device", "network", "createdAt", "lastSeenAt", "current"],
            "properties": {
                "id": { "type": "string" },
                "device": { "type": "string" },
                "network": { "type": "string" },
                "createdAt": { "type": "string", "format": "date-time" },
                "lastSeenAt": { "type": "string", "format": "date-time" },
                "current": { "type": "boolean" },
            },
        } }),
        _ => json!({ "type": "string" }),
    }
}

fn user_schema() -> Value {
    let optional = json!({ "type": ["string", "null"] });
    json!({
        "type": "object",
        "required": ["id", "email", "emailVerified", "firstName", "lastName", "phone", "createdAt"],
        "properties": {
            "id": { "type": "string" },
            "email": { "type": "string", "format": "email" },
            "emailVerified": { "type": "boolean" },
            "firstName": optional,
            "lastName": optional,
            "phone": optional,
            "createdAt": { "type": "string", "format": "date-time" },
        },
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["message", "code", "requestId"],
        "properties": {
            "message": { "type": "string", "description": "for a person" },
            "code": { "type": "string", "description": "for a program; stable" },
            "requestId": { "type": "string" },
            "field": { "type": "string", "description": "with invalid_field" },
            "reasons": { "type": "array", "items": { "type": "string" }, "description": "with weak_password" },
        },
    })
}
