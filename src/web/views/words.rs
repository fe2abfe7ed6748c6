//! What pages say about things: waits, devices, colours, the pieces of a mail.

/// A piece of a mail's text.
#[derive(Debug, PartialEq, Eq)]
pub struct TextPart {
    pub text: String,
    pub link: bool,
}

/// A wait in words, rounded up: `40 seconds`, `1 minute`, `2 hours`.
pub fn wait(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds.max(1), "second"),
        60..3600 => (seconds.div_ceil(60), "minute"),
        _ => (seconds.div_ceil(3600), "hour"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// The first line of a mail's text that is a code and nothing else.
pub fn code_in(text: &str) -> Option<&str> {
    let symbols = |part: &str| {
        part.len() == 5
            && part
                .bytes()
                .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
    };
    text.lines().map(str::trim).find(|line| {
        line.split_once('-')
            .is_some_and(|(a, b)| symbols(a) && symbols(b))
    })
}

/// Cuts a mail's text at its links. A link ends at white space.
pub fn text_parts(text: &str) -> Vec<TextPart> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = [rest.find("http://"), rest.find("https://")]
        .into_iter()
        .flatten()
        .min()
    {
        let (before, from_link) = rest.split_at(start);
        let end = from_link
            .find(char::is_whitespace)
            .unwrap_or(from_link.len());
        let (link, after) = from_link.split_at(end);
        parts.push(TextPart {
            text: before.to_owned(),
            link: false,
        });
        parts.push(TextPart {
            text: link.to_owned(),
            link: true,
        });
        rest = after;
    }
    parts.push(TextPart {
        text: rest.to_owned(),
        link: false,
    });
    parts
}

/// How long ago something was, in words; `now` within a minute.
pub fn ago(millis: i64) -> String {
    let minutes = millis.max(0) / 60_000;
    let (count, unit) = match minutes {
        0 => return "now".to_owned(),
        1..60 => (minutes, "minute"),
        60..1440 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// A device's name for people: `Firefox on Windows`. Order matters, since browsers name their forebears.
pub fn device(user_agent: &str) -> String {
    let named = |names: &[(&str, &'static str)]| {
        names
            .iter()
            .find(|(mark, _)| user_agent.contains(mark))
            .map(|(_, name)| *name)
    };
    let program = named(&[
        ("Edg", "Edge"),
        ("OPR/", "Opera"),
        ("SamsungBrowser/", "Samsung Internet"),
        ("Firefox/", "Firefox"),
        ("FxiOS/", "Firefox"),
        ("CriOS/", "Chrome"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
        ("w3m/", "w3m"),
        ("Lynx/", "Lynx"),
    ]);
    let system = named(&[
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Android", "Android"),
        ("CrOS", "ChromeOS"),
        ("Windows", "Windows"),
        ("Mac OS X", "Mac"),
        ("Linux", "Linux"),
    ]);
    match (program, system) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) => "Unknown device".to_owned(),
    }
}

/// The second stylesheet: the two brand colours (`#rrggbb`, for light and dark) and the text colour that is readable on each.
pub fn brand_style(accent: &str, accent_dark: &str) -> Option<String> {
    let (on, on_dark) = (text_on(accent)?, text_on(accent_dark)?);
    Some(format!(
        ":root{{--accent:{accent};--on-accent:{on};--accent-dark:{accent_dark};--on-accent-dark:{on_dark}}}\n"
    ))
}

/// Black or white, whichever contrasts more (WCAG 2.2; at least 4.58:1 for any colour). `None`: not `#rrggbb`.
fn text_on(colour: &str) -> Option<&'static str> {
    let digits = colour
        .strip_prefix('#')
        .filter(|d| d.len() == 6 && d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let packed = u32::from_str_radix(digits, 16).ok()?;
    let luminance: f64 = [(16, 0.2126), (8, 0.7152), (0, 0.0722)]
        .iter()
        .map(|(shift, weight)| {
            let channel = f64::from((packed >> shift) & 0xff) / 255.0;
            weight
                * if channel <= 0.04045 {
                    channel / 12.92
                } else {
                    ((channel + 0.055) / 1.055).powf(2.4)
                }
        })
        .sum();
    Some(if luminance > 0.179_129 {
        "#000000"
    } else {
        "#ffffff"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_where_it_stands_alone() {
        assert_eq!(
            code_in("see A1B2C-D3E4F here\n\n    7K3QM-X9T2B\n\n@h #7K3QMX9T2B"),
            Some("7K3QM-X9T2B")
        );
        assert_eq!(code_in("no code"), None);
    }

    #[test]
    fn links_are_cut_out_and_nothing_is_lost() {
        let text =
            "See\n\nhttp://localhost:9000/account/confirm#code=1\n\nor https://x.example/ now";
        let parts = text_parts(text);
        assert_eq!(parts.iter().filter(|p| p.link).count(), 2);
        assert_eq!(
            parts.iter().map(|p| p.text.as_str()).collect::<String>(),
            text
        );
    }

    #[test]
    fn devices_have_names() {
        let edge =
            "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0";
        assert_eq!(device(edge), "Edge on Windows");
        assert_eq!(
            device("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
            "Firefox on Linux"
        );
        assert_eq!(device("curl/8.5.0"), "curl");
        assert_eq!(device(""), "Unknown device");
    }

    #[test]
    fn text_on_the_accent_is_readable() {
        assert_eq!(text_on("#0b5a72"), Some("#ffffff"));
        assert_eq!(text_on("#79c7df"), Some("#000000"));
        assert_eq!(text_on("red"), None);
        assert_eq!(brand_style("#0b5a72", "}"), None);
    }

    #[test]
    fn waits_are_rounded_up() {
        assert_eq!(wait(0), "1 second");
        assert_eq!(wait(61), "2 minutes");
        assert_eq!(wait(3600), "1 hour");
    }

    #[test]
    fn what_was_long_ago_is_told_roughly() {
        assert_eq!(ago(59_999), "now");
        assert_eq!(ago(60_000), "1 minute ago");
        assert_eq!(ago(7_200_000), "2 hours ago");
        assert_eq!(ago(12 * 86_400_000), "12 days ago");
    }
}
