//! Configuration: `config.default.toml` < `--config FILE` < environment `CARGOEXTRA_SECTION__KEY`.
//!
//! The default file holds every key, so the merged table deserializes whole; what it must mean is checked in `check`, all problems at once.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use toml::{Table, Value};

use crate::clock::Millis;
use crate::cores;
use crate::random::Secret;

mod check;
pub mod edge;
pub mod logo;
mod merge;
pub mod source;

use source::Source;

/// The commented default; it documents every key.
pub const DEFAULT: &str = include_str!("../config.default.toml");

/// The configuration as the program uses it. The meaning of each key stands in `config.default.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub database: Database,
    pub secrets: Secrets,
    pub mail: Mail,
    pub hash: Hash,
    pub accounts: Accounts,
    pub pages: Pages,
    pub gateway: edge::routes::RawGateway,
    pub guard: edge::guard::RawGuard,
    pub limits: edge::limits::RawLimits,
    pub telemetry: Telemetry,
    /// The last three but one, validated.
    #[serde(skip)]
    pub edge: edge::Edge,
    /// What this was read from.
    #[serde(skip)]
    pub source: Source,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub listen: Vec<SocketAddr>,
    pub public_origin: String,
    pub allowed_origins: Vec<String>,
    pub trusted_proxies: Vec<IpNet>,
    pub client_address: ClientAddress,
    pub proxy_protocol_timeout: Span,
    pub threads: usize,
    pub data_dir: PathBuf,
    pub body_limit: usize,
    pub header_timeout: Span,
    pub body_timeout: Span,
    pub request_timeout: Span,
    pub send_timeout: Span,
    pub drain_timeout: Span,
    pub handover_timeout: Span,
    pub drain_idle: Span,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_connections: usize,
    pub max_connections_per_network: usize,
    pub http2: bool,
    pub http2_streams: u32,
    pub http2_stream_window: u32,
    pub http2_connection_window: u32,
    pub http2_pending_resets: usize,
    pub http2_own_resets: usize,
    pub http2_idle: Span,
    pub http2_ping: Span,
    pub http2_ping_timeout: Span,
    pub tls: Tls,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub listen: Vec<SocketAddr>,
    pub certificates: Vec<CertificateFiles>,
    pub hsts: String,
}

/// PEM files: the certificate with its chain, and its private key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    Auto,
    Peer,
    XForwardedFor,
    Forwarded,
    ProxyProtocol,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    pub url: SecretText,
    pub max_connections: u32,
    pub acquire_timeout: Span,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    pub keys: Vec<NamedSecret>,
    pub peppers: Vec<NamedSecret>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSecret {
    pub id: String,
    pub value: SecretText,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum MailTransport {
    Capture,
    Smtp,
    File,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    pub transport: MailTransport,
    pub smtp_url: SecretText,
    pub smtp_username: String,
    pub smtp_password: SecretText,
    pub from: String,
    pub directory: PathBuf,
    pub support: String,
    pub brand: String,
    pub timeout: Span,
    pub lease: Span,
    pub batch: usize,
    pub poll: Span,
    pub max_attempts: i64,
    pub capture_limit: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    pub threads: usize,
    pub queue: usize,
    pub max_wait: Span,
    pub memory_kib: u32,
    pub iterations: u32,
    pub parallelism: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounts {
    pub disclosure: Disclosure,
    pub reset: Reset,
    pub password: Password,
    pub session: Session,
    pub budgets: Budgets,
    pub retention: Retention,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Disclosure {
    Documented,
    Uniform,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    SameClient,
    Grant,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    pub proof: Proof,
    pub code_life: Span,
    pub confirmed_life: Span,
    pub fallback_life: Span,
    pub fallback_quiet: Span,
    pub max_live: i64,
    pub resend_after: Span,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Password {
    pub min_length: usize,
    pub max_length: usize,
    pub min_score: u8,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    pub idle: Span,
    pub max: Span,
    pub touch: Span,
    pub device_life: Span,
    pub known_network_life: Span,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    pub mails_network_hour: i64,
    pub mails_network_day: i64,
    pub mails_address_hour: i64,
    pub mails_address_day: i64,
    pub mails_kept_for_known: i64,
    pub codes_network: i64,
    pub codes_site: i64,
    pub codes_server: i64,
    pub codes_window: Span,
    pub passwords_free: i64,
    pub passwords_first_wait: Span,
    pub passwords_longest_wait: Span,
    pub passwords_in_a_row: i64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    pub requests: Span,
    pub max_requests: i64,
    pub registrations: Span,
    pub sessions: Span,
    pub flows: Span,
    pub mails: Span,
    pub audit: Span,
    pub sweep_every: Span,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    pub accent: String,
    pub accent_dark: String,
    pub logo: PathBuf,
    pub security_contact: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub log: String,
    pub access_log: String,
    pub access_log_flush: Span,
    pub format: LogFormat,
    pub otlp_endpoint: String,
    pub otlp_sample: f64,
    pub otlp_queue: usize,
    pub otlp_batch: usize,
    pub otlp_delay: Span,
    pub otlp_timeout: Span,
    pub service_name: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    Text,
    Json,
}

/// A duration in milliseconds, written as `250ms`, `10s`, `10min`, `72h` or `14d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Millis);

impl Span {
    pub fn seconds(self) -> i64 {
        self.0 / 1000
    }

    pub fn std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.max(0) as u64)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim() {
            "ms" => 1,
            "s" => 1000,
            "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => 0,
        };
        let millis = number
            .parse::<Millis>()
            .ok()
            .and_then(|number| number.checked_mul(factor));
        // A thousand years is no limit that anybody means, and sums of two stay in range.
        millis
            .filter(|millis| factor > 0 && *millis < 31_557_600_000_000)
            .map(Self)
            .ok_or_else(|| {
                format!("`{text}` is not a duration; write 250ms, 10s, 10min, 72h or 14d")
            })
    }
}

/// Text from the configuration that must not be printed.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "String")]
pub struct SecretText(Secret<String>);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Secret::new(text))
    }
}

impl SecretText {
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    pub fn secret(&self) -> Secret<String> {
        self.0.clone()
    }
}

/// Why a configuration can't be used: one sentence a line, each says what to do.
#[derive(Debug)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// Every problem found: an unreadable file, an unknown key, a wrong type, a value that makes no sense.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let table = merge::merged(file, environment)?;
        let source = Source::new(file, table.clone());
        Ok(Self {
            source,
            ..Self::from_table(table)?
        })
    }

    /// Reads the same file and environment once more.
    ///
    /// # Errors
    /// As [`Config::load`]; also where `serve` would not start with it.
    pub fn again(&self) -> Result<Self, Problems> {
        let config = Self::load(self.source.file(), environment())?;
        match config.refuses_to_serve() {
            Some(reason) => Err(Problems(vec![reason.to_owned()])),
            None => Ok(config),
        }
    }

    fn from_table(table: Table) -> Result<Self, Problems> {
        let mut config: Self = Value::Table(table)
            .try_into()
            .map_err(|error| Problems(vec![error.to_string().trim().replace('\n', " ")]))?;
        let mut problems = check::problems(&config);
        match config.raw_edge().validate() {
            Ok(edge) => config.edge = edge,
            Err(more) => problems.extend(more),
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(Problems(problems))
        }
    }

    fn raw_edge(&self) -> edge::RawEdge {
        edge::RawEdge {
            guard: self.guard.clone(),
            limits: self.limits.clone(),
            gateway: self.gateway.clone(),
        }
    }

    /// Why `serve` will not start with this configuration, where it will not.
    pub fn refuses_to_serve(&self) -> Option<&'static str> {
        check::refuses_to_serve(self)
    }

    /// How many cores serve.
    pub fn cores(&self) -> usize {
        match self.server.threads {
            0 => cores::available(),
            threads => threads,
        }
    }

    /// Whether people reach us only on this machine.
    pub fn public_origin_is_loopback(&self) -> bool {
        check::is_loopback_origin(&self.server.public_origin)
    }

    /// Whether cookies may say `Secure`.
    pub fn public_origin_is_https(&self) -> bool {
        self.server.public_origin.starts_with("https://")
    }

    /// `http` or `https`, as people see us.
    pub fn public_scheme(&self) -> &'static str {
        if self.public_origin_is_https() {
            "https"
        } else {
            "http"
        }
    }

    /// Host (and port) of the public origin.
    pub fn public_host(&self) -> &str {
        self.server
            .public_origin
            .split_once("://")
            .map_or("", |(_, host)| host)
    }

    /// Every public address, plain or TLS.
    pub fn listens(&self) -> impl Iterator<Item = &SocketAddr> {
        self.server.listen.iter().chain(&self.server.tls.listen)
    }

    /// Where the client's address is taken from, with `auto` decided.
    pub fn client_address(&self) -> ClientAddress {
        match self.server.client_address {
            ClientAddress::Auto if self.server.trusted_proxies.is_empty() => ClientAddress::Peer,
            ClientAddress::Auto => ClientAddress::XForwardedFor,
            named => named,
        }
    }
}

/// The effective configuration as TOML, secrets masked, for `config show`.
///
/// # Errors
/// As [`Config::load`].
pub fn show(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Table, Problems> {
    let mut table = merge::merged(file, environment)?;
    Config::from_table(table.clone())?;
    merge::mask(&mut table);
    Ok(table)
}

/// The process's own environment.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars()
}

/// The sockets that a service manager bound for us (`LISTEN_FDS` and `LISTEN_PID`, as systemd does it). To be called once, before there are
/// threads: what it finds is taken out of the environment, so that no child believes it was meant.
///
/// # Errors
/// A sentence for what is no TCP socket.
pub fn passed_sockets() -> Result<Vec<std::net::TcpListener>, String> {
    let mut passed = listenfd::ListenFd::from_env();
    let taken = (0..passed.len()).map(|index| passed.take_tcp_listener(index));
    taken
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            format!("LISTEN_FDS: {error}; in the socket unit write ListenStream= with addresses and ports")
        })
}
