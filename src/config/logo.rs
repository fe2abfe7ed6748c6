//! The logo of the pages: a file that is read once, at start.

use std::path::Path;

/// Bytes. A page that waits for its logo is a slow page.
const LARGEST: usize = 65_536;

/// A picture, ready to be served.
#[derive(Clone, Debug)]
pub struct Logo {
    pub bytes: Vec<u8>,
    pub content_type: &'static str,
}

/// Reads the configured file; no file without a path.
///
/// # Errors
/// One sentence that says what to do.
pub fn read(path: &Path) -> Result<Option<Logo>, String> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let refuse = |why: &str| format!("pages.logo: {}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|error| refuse(&format!("can't be read: {error}")))?;
    if bytes.len() > LARGEST {
        return Err(refuse("is larger than 64 KiB; use a smaller picture"));
    }
    match kind(path, &bytes) {
        Some(content_type) => Ok(Some(Logo {
            bytes,
            content_type,
        })),
        None => Err(refuse(
            "is no picture of its kind; use a .svg, .png, .jpg or .webp file",
        )),
    }
}

/// By name and content: a file that is not what its name says would not be shown by any browser.
fn kind(path: &Path, bytes: &[u8]) -> Option<&'static str> {
    let name = path.extension()?.to_str()?.to_ascii_lowercase();
    let (content_type, fits) = match name.as_str() {
        "svg" => (
            "image/svg+xml",
            std::str::from_utf8(bytes).is_ok_and(|text| text.contains("<svg")),
        ),
        "png" => ("image/png", bytes.starts_with(b"\x89PNG\r\n\x1a\n")),
        "jpg" | "jpeg" => ("image/jpeg", bytes.starts_with(b"\xff\xd8\xff")),
        "webp" => (
            "image/webp",
            bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP"),
        ),
        _ => return None,
    };
    fits.then_some(content_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_logo_is_refused_in_one_sentence() {
        assert!(read(Path::new("")).expect("no logo is fine").is_none());
        let missing = read(Path::new("no/such.svg")).expect_err("it is not there");
        assert!(
            missing.starts_with("pages.logo: no/such.svg: can't be read: "),
            "{missing}"
        );
        assert_eq!(kind(Path::new("a.png"), b"<svg>"), None);
        assert_eq!(kind(Path::new("a.exe"), b"MZ"), None);
        assert_eq!(kind(Path::new("A.SVG"), b"<svg/>"), Some("image/svg+xml"));
    }
}
