//! The API described for programs and shown for people, without the internet.

use std::sync::{Arc, LazyLock};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::{StatusCode, header};
use utoipa_swagger_ui::Config;

use super::answer::json_response;
use super::openapi;
use crate::app::App;
use crate::error::Error;

/// What Swagger UI needs: it styles inline and draws its icons from `data:`.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; \
     base-uri 'none'; form-action 'none'";

const DESCRIPTION: &str = "/api/v1/openapi.json";

pub async fn openapi(State(app): State<Arc<App>>) -> Response {
    json_response(
        StatusCode::OK,
        &openapi::document(&app.config.server.public_origin),
    )
}

/// Keys of the assertions that downstream services verify. Access tokens are for us alone: their keys are not here.
pub async fn jwks(State(app): State<Arc<App>>) -> Response {
    json_response(StatusCode::OK, app.tokens.jwks())
}

/// Swagger UI, as its crate ships it.
pub async fn page() -> Response {
    Redirect::temporary("/docs/index.html").into_response()
}

pub async fn file(name: Result<Path<String>, PathRejection>) -> Result<Response, Error> {
    let Path(name) = name.map_err(|_| Error::NotFound)?;
    static SETTINGS: LazyLock<Arc<Config<'static>>> =
        LazyLock::new(|| Arc::new(Config::from(DESCRIPTION)));
    match utoipa_swagger_ui::serve(&name, SETTINGS.clone()) {
        Ok(Some(file)) => {
            let fields = [
                (header::CONTENT_TYPE, file.content_type.as_str()),
                (header::CONTENT_SECURITY_POLICY, POLICY),
            ];
            Ok((fields, file.bytes).into_response())
        }
        Ok(None) => Err(Error::NotFound),
        Err(error) => Err(Error::internal(error.to_string())),
    }
}
