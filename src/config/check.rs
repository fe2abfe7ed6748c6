//! What a configuration must mean. Each problem is a sentence that says what to do.

use super::{ClientAddress, Config, MailTransport, Proof, Span};

/// All problems of a configuration that has the right types.
pub fn problems(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let mut demand = |holds: bool, text: &str| {
        if !holds {
            found.push(text.to_owned());
        }
    };
    server(config, &mut demand);
    connections(config, &mut demand);
    secrets(config, &mut demand);
    mail(config, &mut demand);
    hash(config, &mut demand);
    accounts(config, &mut demand);
    pages(config, &mut demand);
    telemetry(config, &mut demand);
    bans(config, &mut demand);
    client_address(config, &mut demand);
    found
}

fn server(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    let server = &config.server;
    demand(
        config.listens().next().is_some(),
        "server.listen: name at least one address",
    );
    let mut listens: Vec<_> = config.listens().chain([&config.admin.listen]).collect();
    let all = listens.len();
    listens.sort_unstable();
    listens.dedup();
    demand(
        listens.len() == all || listens.iter().any(|at| at.port() == 0),
        "server.listen, server.tls.listen, admin.listen: an address stands twice; each needs a port of its own",
    );
    demand(
        is_origin(&server.public_origin),
        "server.public_origin: write scheme and host, such as https://www.example.com, without a path",
    );
    demand(
        server
            .allowed_origins
            .iter()
            .all(|origin| is_origin(origin)),
        "server.allowed_origins: each must be scheme and host, such as https://app.example.com (`null` and `*` can't be allowed)",
    );
    demand(
        server.body_limit >= 1024,
        "server.body_limit: must be at least 1024 bytes",
    );
    let url = config.database.url.reveal();
    demand(
        ["sqlite://", "postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme)),
        "database.url: must begin with sqlite:// or postgres://",
    );
    demand(
        config.database.max_connections > 0,
        "database.max_connections: must be at least 1",
    );
}

/// What belongs to connections.
fn connections(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    let server = &config.server;
    demand(
        server.max_connections > 0 && server.max_connections_per_network > 0,
        "server: max_connections and max_connections_per_network must be at least 1",
    );
    demand(
        server.threads <= 256,
        "server.threads: must be 0 (one a core) to 256",
    );
    demand(
        server.max_header_bytes >= 8192 && server.max_headers >= 16,
        "server: max_header_bytes must be at least 8192 and max_headers at least 16",
    );
    let times = [
        server.header_timeout,
        server.body_timeout,
        server.send_timeout,
        server.drain_timeout,
        server.proxy_protocol_timeout,
        server.http2_idle,
        server.http2_ping,
        server.http2_ping_timeout,
    ];
    demand(
        times.iter().all(|time| time.0 >= 100),
        "server: a time-out must be at least 100ms",
    );
    demand(
        server.request_timeout > server.body_timeout,
        "server.request_timeout: must exceed server.body_timeout, or a slow client would look like a fault of ours",
    );
    demand(
        server.drain_idle < server.drain_timeout,
        "server.drain_idle: must be less than server.drain_timeout",
    );
    let window = 65_535..=16_777_216;
    demand(
        window.contains(&server.http2_stream_window)
            && window.contains(&server.http2_connection_window),
        "server: http2_stream_window and http2_connection_window are 65535 (the least that the protocol allows) to 16777216 bytes",
    );
    demand(
        (1..=10_000).contains(&server.http2_streams)
            && (1..=10_000).contains(&server.http2_pending_resets)
            && (1..=10_000).contains(&server.http2_own_resets),
        "server: http2_streams, http2_pending_resets and http2_own_resets are 1 to 10000",
    );
    let tls = &server.tls;
    demand(
        tls.listen.is_empty() || !tls.certificates.is_empty(),
        "server.tls.certificates: name at least one {certificate, key} for the addresses of server.tls.listen",
    );
    demand(
        tls.hsts
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic()),
        "server.tls.hsts: must be plain text, such as max-age=31536000",
    );
}

fn secrets(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    demand(
        !config.secrets.keys.is_empty() || config.public_origin_is_loopback(),
        "secrets.keys: set at least one {id, value} when server.public_origin is not loopback; a generated key is for trying things out",
    );
    let secrets = || config.secrets.keys.iter().chain(&config.secrets.peppers);
    demand(
        secrets().all(|key| key.value.reveal().len() >= 32),
        "secrets: each value must have at least 32 characters; `openssl rand -base64 32` makes one",
    );
    let plain = |id: &str| {
        (1..=8).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    demand(
        secrets().all(|key| plain(&key.id)),
        "secrets: each id must be 1 to 8 letters, digits or dashes",
    );
    for list in [&config.secrets.keys, &config.secrets.peppers] {
        let mut ids: Vec<_> = list.iter().map(|key| &key.id).collect();
        ids.sort_unstable();
        ids.dedup();
        demand(
            ids.len() == list.len(),
            "secrets: two entries have the same id; rename one",
        );
    }
}

fn mail(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    let mail = &config.mail;
    demand(
        mail.from.parse::<lettre::message::Mailbox>().is_ok(),
        "mail.from: must be an address, such as CargoExtra <no-reply@example.com>",
    );
    demand(
        mail.lease.0 > mail.timeout.0,
        "mail.lease: must exceed mail.timeout",
    );
    demand(
        mail.lease.0 <= 60_000,
        "mail.lease: at most 60s, so that a dead process's mails go out soon",
    );
    demand(
        mail.batch > 0 && mail.max_attempts > 0,
        "mail: batch and max_attempts must be at least 1",
    );
    demand(mail.poll.0 >= 10, "mail.poll: must be at least 10ms");
    if mail.transport != MailTransport::Smtp {
        let local = config.public_origin_is_loopback()
            && config.listens().all(|at| at.ip().is_loopback())
            && config.admin.listen.ip().is_loopback()
            && config.server.trusted_proxies.is_empty();
        demand(
            local,
            "mail.transport: capture and file are for one machine; set smtp, or make public_origin, server.listen and admin.listen loopback and trusted_proxies empty",
        );
    } else {
        let url = mail.smtp_url.reveal();
        demand(
            url.starts_with("smtp://") || url.starts_with("smtps://"),
            "mail.smtp_url: must begin with smtp:// or smtps://",
        );
    }
}

fn hash(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    let hash = &config.hash;
    demand(
        (1..=10_000).contains(&hash.queue),
        "hash.queue: must be 1 to 10000",
    );
    demand(
        hash.threads <= 256,
        "hash.threads: must be 0 (one a core) to 256",
    );
    demand(
        hash.memory_kib >= 19_456 && hash.iterations >= 2 && hash.parallelism == 1,
        "hash: argon2id needs memory_kib of at least 19456, iterations of at least 2 and parallelism 1",
    );
    demand(
        hash.memory_kib <= 1_048_576 && hash.iterations <= 100,
        "hash: at most 1048576 KiB and 100 iterations",
    );
}

fn accounts(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    let (reset, password) = (&config.accounts.reset, &config.accounts.password);
    let at_most = |span: Span, minutes: i64| span.0 > 0 && span.0 <= minutes * 60_000;
    demand(
        at_most(reset.code_life, 10) && at_most(reset.confirmed_life, 10),
        "accounts.reset: code_life and confirmed_life must be at most 10min (ASVS 5.0 6.5.5)",
    );
    demand(
        at_most(reset.fallback_life, 2) && reset.fallback_quiet.0 >= 600_000,
        "accounts.reset: fallback_life must be at most 2min and fallback_quiet at least 10min",
    );
    demand(
        (1..=3).contains(&reset.max_live),
        "accounts.reset.max_live: must be 1 to 3",
    );
    demand(
        reset.resend_after.0 >= 1000 && reset.resend_after < reset.code_life,
        "accounts.reset.resend_after: must be at least 1s and less than code_life",
    );
    demand(
        password.min_length >= 8 && password.max_length >= 64 && password.max_length <= 4096,
        "accounts.password: min_length must be at least 8, max_length 64 to 4096 (SP 800-63B-4, 3.1.1.2)",
    );
    demand(
        password.min_length <= password.max_length,
        "accounts.password: min_length exceeds max_length",
    );
    demand(
        password.min_score <= 4,
        "accounts.password.min_score: must be 0 to 4",
    );
    let session = &config.accounts.session;
    demand(
        session.idle <= session.max,
        "accounts.session.idle: must not exceed accounts.session.max",
    );
    demand(
        session.touch < session.idle,
        "accounts.session.touch: must be less than idle",
    );
    let budgets = &config.accounts.budgets;
    let bounds = [
        (budgets.mails_network_hour, 10),
        (budgets.mails_network_day, 20),
        (budgets.mails_address_hour, 20),
        (budgets.mails_address_day, 50),
    ];
    demand(
        bounds
            .iter()
            .all(|(value, most)| (1..=*most).contains(value)),
        "accounts.budgets: mails_network_hour is 1 to 10, mails_network_day 1 to 20, mails_address_hour 1 to 20, mails_address_day 1 to 50",
    );
    demand(
        (0..budgets.mails_address_day).contains(&budgets.mails_kept_for_known),
        "accounts.budgets.mails_kept_for_known: must be less than mails_address_day",
    );
    guesses(config, demand);
    let keep = &config.accounts.retention;
    demand(
        keep.requests.0 >= 86_400_000 && keep.max_requests >= 1000,
        "accounts.retention: requests must be at least 24h (the budgets count a day) and max_requests at least 1000",
    );
    demand(
        keep.sweep_every.0 >= 1000,
        "accounts.retention.sweep_every: must be at least 1s",
    );
}

fn pages(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    let pages = &config.pages;
    let is_colour = |text: &str| {
        text.strip_prefix('#').is_some_and(|digits| {
            digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit())
        })
    };
    let (light, dark) = (pages.accent.as_str(), pages.accent_dark.as_str());
    demand(
        light.is_empty() && dark.is_empty() || is_colour(light) && is_colour(dark),
        "pages.accent, pages.accent_dark: write both as #rrggbb, or leave both empty",
    );
    let contact = &pages.security_contact;
    let is_uri = ["mailto:", "https://", "tel:"]
        .iter()
        .any(|scheme| contact.starts_with(scheme));
    demand(
        contact.is_empty() || is_uri && contact.bytes().all(|b| b.is_ascii_graphic()),
        "pages.security_contact: must begin with mailto:, https:// or tel: (RFC 9116)",
    );
}

fn telemetry(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    let telemetry = &config.telemetry;
    let endpoint = telemetry.otlp_endpoint.parse::<http::Uri>();
    let is_plain = |uri: http::Uri| {
        let authority = uri.authority().map_or("", |it| it.as_str());
        uri.scheme_str() == Some("http") && !authority.is_empty() && !authority.contains('@')
    };
    demand(
        telemetry.otlp_endpoint.is_empty() || endpoint.is_ok_and(is_plain),
        "telemetry.otlp_endpoint: write a collector's address such as http://127.0.0.1:4318/v1/traces; one that needs TLS is reached through a collector beside us",
    );
    demand(
        (0.0..=1.0).contains(&telemetry.otlp_sample),
        "telemetry.otlp_sample: must be 0.0 to 1.0, the share of requests that are traced",
    );
    demand(
        telemetry.otlp_batch >= 1
            && telemetry.otlp_batch <= telemetry.otlp_queue
            && telemetry.otlp_queue <= 1_000_000,
        "telemetry: otlp_batch must be at least 1 and at most otlp_queue, which is at most 1000000",
    );
    demand(
        telemetry.otlp_delay.0 >= 10 && (100..=60_000).contains(&telemetry.otlp_timeout.0),
        "telemetry: otlp_delay must be at least 10ms, otlp_timeout 100ms to 60s",
    );
    demand(
        !telemetry.service_name.is_empty(),
        "telemetry.service_name: give this installation a name",
    );
}

fn guesses(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    let (budgets, keep) = (&config.accounts.budgets, &config.accounts.retention);
    demand(
        keep.flows.0 >= 86_400_000 && keep.flows > budgets.codes_window,
        "accounts.retention.flows: must be at least 24h (the budgets look back a day) and exceed accounts.budgets.codes_window",
    );
    let bounds = [
        (budgets.codes_network, 100),
        (budgets.codes_site, 300),
        (budgets.codes_server, 10_000),
    ];
    demand(
        bounds
            .iter()
            .all(|(value, most)| (1..=*most).contains(value)),
        "accounts.budgets: codes_network is 1 to 100, codes_site 1 to 300, codes_server 1 to 10000",
    );
    demand(
        (600_000..86_400_000).contains(&budgets.codes_window.0),
        "accounts.budgets.codes_window: must be at least 10min and less than 24h",
    );
    demand(
        (1..=20).contains(&budgets.passwords_free)
            && (budgets.passwords_free..=100).contains(&budgets.passwords_in_a_row),
        "accounts.budgets: passwords_free is 1 to 20, passwords_in_a_row at least passwords_free and at most 100 (SP 800-63B-4, 3.2.2)",
    );
    let (first, longest) = (budgets.passwords_first_wait, budgets.passwords_longest_wait);
    demand(
        first.0 >= 1000 && first <= longest && longest.0 <= 86_400_000,
        "accounts.budgets: passwords_first_wait must be at least 1s, passwords_longest_wait at least that and at most 24h",
    );
}

fn bans(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    let bans = &config.guard.bans;
    demand(
        bans.mode == "off" || !is_one_client(config),
        "guard.bans.mode: with a public origin and only loopback listeners, a ban would be everybody's behind your proxy; name the proxy in server.trusted_proxies",
    );
    demand(
        bans.signed_in_within <= config.accounts.session.known_network_life,
        "guard.bans.signed_in_within: must not exceed accounts.session.known_network_life",
    );
}

/// Whether everybody who comes through a proxy on this machine looks like that proxy.
fn is_one_client(config: &Config) -> bool {
    !config.public_origin_is_loopback()
        && config.listens().all(|at| at.ip().is_loopback())
        && config.server.trusted_proxies.is_empty()
}

/// Whom to believe about who calls.
fn client_address(config: &Config, demand: &mut impl FnMut(bool, &str)) {
    demand(
        matches!(config.client_address(), ClientAddress::Peer)
            || !config.server.trusted_proxies.is_empty(),
        "server.client_address: names a source that a proxy sets; list that proxy in server.trusted_proxies",
    );
    demand(
        config
            .server
            .trusted_proxies
            .iter()
            .all(|net| net.prefix_len() > 0),
        "server.trusted_proxies: a network of prefix length 0 would believe everybody; name your proxies only",
    );
}

/// What `serve` demands beyond a valid configuration.
pub fn refuses_to_serve(config: &Config) -> Option<&'static str> {
    let one_client = config.accounts.reset.proof == Proof::SameClient && is_one_client(config);
    one_client.then_some(
        "accounts.reset.proof: with same-client, a public origin and only loopback listeners, everybody behind your proxy would be one client; name the proxy in server.trusted_proxies or set proof = \"grant\"",
    )
}

/// `scheme://host[:port]` and nothing else.
fn is_origin(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|host| {
        !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    })
}

pub fn is_loopback_origin(origin: &str) -> bool {
    let host = origin.split_once("://").map_or("", |(_, host)| host);
    let name = if host.starts_with('[') {
        host.split_inclusive(']').next().unwrap_or_default()
    } else {
        host.split(':').next().unwrap_or_default()
    };
    matches!(name, "localhost" | "[::1]")
        || name.starts_with("127.") && name.parse::<std::net::Ipv4Addr>().is_ok()
}
