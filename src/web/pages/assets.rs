//! Stylesheet, scripts and pictures: compiled in, named with their hash, and so kept by browsers for good.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};

use super::Pages;
use crate::app::App;
use crate::error::Error;
use crate::random::sha256;
use crate::web::views::Shell;
use crate::web::views::words::brand_style;

const STYLE: (&str, &str, &[u8]) = (
    "style.css",
    "text/css; charset=utf-8",
    include_bytes!("../../../assets/pages/style.css"),
);
const ICON: (&str, &str, &[u8]) = (
    "icon.svg",
    "image/svg+xml",
    include_bytes!("../../../assets/pages/icon.svg"),
);
const SCRIPT: (&str, &str, &[u8]) = (
    "script.js",
    "text/javascript; charset=utf-8",
    include_bytes!("../../../assets/pages/script.js"),
);
const MAILBOX: (&str, &str, &[u8]) = (
    "mailbox.js",
    "text/javascript; charset=utf-8",
    include_bytes!("../../../assets/pages/mailbox.js"),
);

#[derive(Debug)]
struct Asset {
    name: &'static str,
    content_type: &'static str,
    bytes: Bytes,
    version: String,
}

/// The assets of one listener.
#[derive(Debug)]
pub struct Assets(Vec<Asset>);

impl Assets {
    /// Of the hosted pages.
    pub fn of_pages(app: &App) -> Self {
        Self::with(app, SCRIPT)
    }

    /// Of the developer's mailbox.
    pub fn of_mailbox(app: &App) -> Self {
        Self::with(app, MAILBOX)
    }

    fn with(app: &App, script: (&'static str, &'static str, &'static [u8])) -> Self {
        let mut assets: Vec<Asset> = [STYLE, ICON, script]
            .into_iter()
            .map(|(name, content_type, bytes)| {
                Asset::new(name, content_type, Bytes::from_static(bytes))
            })
            .collect();
        let pages = &app.config.pages;
        if let Some(style) = brand_style(&pages.accent, &pages.accent_dark) {
            assets.push(Asset::new("brand.css", STYLE.1, style.into()));
        }
        if let Some(logo) = &app.logo {
            let bytes = logo.bytes.clone().into();
            assets.push(Asset::new("logo", logo.content_type, bytes));
        }
        Self(assets)
    }

    /// The frame of the pages under `base`.
    pub fn shell(&self, base: &str, script: &str, app: &App, home: &str) -> Shell {
        let address = |name: &str| {
            let asset = self.0.iter().find(|asset| asset.name == name);
            asset.map_or_else(String::new, |asset| {
                format!("{base}/{name}?v={}", asset.version)
            })
        };
        Shell {
            brand: app.config.mail.brand.clone(),
            support: app.config.mail.support.clone(),
            home: home.to_owned(),
            logo: address("logo"),
            icon: address("icon.svg"),
            style: address("style.css"),
            brand_style: address("brand.css"),
            script: address(script),
        }
    }

    /// Kept for good when asked for by its hash; asked for again each time otherwise.
    pub fn answer(&self, name: &str, query: Option<&str>) -> Result<Response, Error> {
        let asset = self.0.iter().find(|asset| asset.name == name);
        let asset = asset.ok_or(Error::NotFound)?;
        let current = query.and_then(|query| query.strip_prefix("v=")) == Some(&asset.version);
        let caching = if current {
            "public, max-age=31536000, immutable"
        } else {
            "no-cache"
        };
        let mut response = Response::new(asset.bytes.clone().into());
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(asset.content_type),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
        Ok(response)
    }
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, bytes: Bytes) -> Self {
        let mut version = String::new();
        for byte in &sha256(&bytes)[..8] {
            write!(version, "{byte:02x}").expect("a string can be written to");
        }
        Self {
            name,
            content_type,
            bytes,
            version,
        }
    }
}

pub async fn serve(
    State(pages): State<Arc<Pages>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Error> {
    pages.assets.answer(&name, query.as_deref())
}
