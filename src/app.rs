//! Everything that a request needs, in one struct, built only here.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::Clock;
use crate::config::logo::{self, Logo};
use crate::config::{Config, Tls};
use crate::error::Error;
use crate::gateway::Edge;
use crate::gateway::ban::Bans;
use crate::gateway::limit::counters::Counters;
use crate::gateway::tls;
use crate::hash::{self, Hasher};
use crate::keys::{Keyring, load_or_create};
use crate::mail::transport::Transport;
use crate::metrics::Metrics;
use crate::metrics::process::Process;
use crate::metrics::scrape::{Scraped, Upstream};
use crate::random::{Random, Secret};
use crate::store::db::Db;
use crate::store::outbox;
use crate::store::session_cache::SessionCache;
use crate::telemetry::access_log::AccessLog;
use crate::token::Tokens;
use crate::trace::Tracer;

pub mod reload;

pub mod bans;

#[derive(Debug)]
pub struct App {
    pub config: Config,
    pub clock: Arc<Clock>,
    pub random: Arc<Random>,
    pub metrics: Arc<Metrics>,
    pub keys: Keyring,
    pub tokens: Tokens,
    pub db: Db,
    pub hasher: Hasher,
    pub mail: Transport,
    /// Guard, limits and routes; a reload swaps them whole.
    pub edge: ArcSwap<Edge>,
    /// Which configuration `edge` was made from; held while a reload runs.
    in_force: reload::InForce,
    /// Networks that are kept out for a while; [`bans`] keeps the list.
    pub bans: Bans,
    /// Certificates and what else a TLS handshake needs; none where nobody listens for one. A reload swaps it whole.
    pub tls: ArcSwapOption<rustls::ServerConfig>,
    /// The process stops: answers say so, and `/readyz` too.
    pub draining: AtomicBool,
    /// Somebody waits for the stop at a terminal: idle connections are closed at once.
    pub hurried: AtomicBool,
    pub sessions: SessionCache,
    pub access_log: AccessLog,
    pub tracer: Tracer,
    /// What the pages show instead of the brand's name.
    pub logo: Option<Logo>,
    /// Rung by a commit that queued a mail; the worker listens.
    pub mail_queued: tokio::sync::Notify,
    /// The name that this process claims mails under.
    pub node: String,
}

impl App {
    /// Loads or makes the keys, connects the database, brings its schema up to date, starts the hash threads.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub async fn build(config: Config, clock: Clock, random: Random) -> Result<Self, String> {
        let keys = keyring(&config, &random)?;
        let tokens = Tokens::new(&keys, &config.server.public_origin);
        let database = &config.database;
        let db = Db::connect(
            database.url.reveal(),
            database.max_connections,
            database.acquire_timeout.std(),
        )
        .await?;
        db.migrate().await?;
        let mail = Transport::build(&config.mail)?;
        let logo = logo::read(&config.pages.logo)?;
        let (clock, random) = (Arc::new(clock), Arc::new(random));
        let tls = tls::load(&config.server.tls, config.server.http2, clock.now())?;
        for sentence in tls.iter().flat_map(|tls| &tls.invalid) {
            tracing::warn!("{sentence}");
        }
        let metrics = Arc::new(Metrics::default());
        metrics.started.set(clock.now() as f64 / 1000.0);
        let tracer = Tracer::new(&config.telemetry, &metrics);
        let hasher = Hasher::start(
            hash_settings(&config),
            clock.clone(),
            random.clone(),
            metrics.clone(),
        );
        let counters = Counters::new(config.edge.limits.max_keys, random.bytes());
        let edge = Edge::compile(
            &config.edge,
            Arc::new(counters),
            &metrics,
            config.cores(),
            None,
        );
        let access_log = AccessLog::open(&config.telemetry, config.cores())?;
        let node = random.id(clock.now());
        let in_force = reload::InForce::new(&config);
        let mail_queued = tokio::sync::Notify::new();
        let app = Self {
            config,
            clock,
            random,
            metrics,
            keys,
            tokens,
            db,
            hasher,
            mail,
            edge: ArcSwap::from_pointee(edge),
            in_force,
            bans: Bans::default(),
            tls: ArcSwapOption::new(tls.map(|tls| tls.config)),
            draining: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            sessions: SessionCache::default(),
            access_log,
            tracer,
            logo,
            mail_queued,
            node,
        };
        let loaded = bans::load(&app).await;
        loaded.map_err(|error| format!("the list of bans can't be read: {error}"))?;
        Ok(app)
    }

    /// Puts guard, limits, routes and certificates of another configuration in force, all of them or none. Running requests finish under the
    /// old ones, and no connection ends.
    ///
    /// # Errors
    /// One sentence: a certificate or key that can't be used, or one that is not valid now.
    pub fn reload(&self, config: &Config) -> Result<(), String> {
        let tls = self.certificates(&config.server.tls)?;
        self.reload_edge(&config.edge);
        self.tls.store(tls);
        Ok(())
    }

    /// What a handshake needs, for the addresses that this process listens on.
    fn certificates(&self, settings: &Tls) -> Result<Option<Arc<rustls::ServerConfig>>, String> {
        let (server, now) = (&self.config.server, self.clock.now());
        let settings = Tls {
            listen: server.tls.listen.clone(),
            ..settings.clone()
        };
        let Some(loaded) = tls::load(&settings, server.http2, now)? else {
            return Ok(None);
        };
        match loaded.invalid.into_iter().next() {
            Some(sentence) => Err(sentence),
            None => Ok(Some(loaded.config)),
        }
    }

    /// Puts guard, limits and routes in force.
    pub fn reload_edge(&self, settings: &crate::config::edge::Edge) {
        let old = self.edge.load();
        let counters = old.limits.counters().clone();
        let new = Edge::compile(
            settings,
            counters,
            &self.metrics,
            self.config.cores(),
            Some(&old),
        );
        self.edge.store(Arc::new(new));
        self.metrics.count_reload(true);
        self.bans.changed.notify_one();
    }

    /// The metrics as text, with what is only read when somebody asks.
    pub fn scrape(&self) -> String {
        self.metrics.render(|| self.scraped())
    }

    fn scraped(&self) -> Scraped {
        let (edge, now) = (self.edge.load(), self.clock.now());
        let routes = edge.routes.all().iter().zip(&edge.upstreams);
        let upstreams = routes.flat_map(|(route, upstreams)| {
            let states = upstreams.status(now).into_iter();
            states.map(|status| Upstream {
                route: route.settings().name.clone(),
                upstream: status.upstream,
                requests: status.under_way.into(),
                idle: status.idle as i64,
                is_open: status.is_open,
                is_up: status.is_up,
            })
        });
        let counters = edge.limits.counters();
        let evictions = counters.evictions();
        Scraped {
            upstreams: upstreams.collect(),
            limit_keys: counters.live_keys(now as u64 * 1_000_000) as i64,
            evicted: evictions.live,
            evicted_refused: evictions.punished,
            process: Process::read(),
        }
    }

    /// How full the mail queue is; also tells whether the database answers.
    ///
    /// # Errors
    /// A database that does not.
    pub async fn mail_depth(&self) -> Result<outbox::Depth, Error> {
        outbox::depth(&mut self.db.read().await?).await
    }

    /// A new row id.
    pub fn id(&self) -> String {
        self.random.id(self.clock.now())
    }
}

fn keyring(config: &Config, random: &Random) -> Result<Keyring, String> {
    let named = |key: &crate::config::NamedSecret| (key.id.clone(), key.value.secret());
    let mut keys: Vec<(String, Secret<String>)> = config.secrets.keys.iter().map(named).collect();
    if keys.is_empty() {
        let path = config.server.data_dir.join("secrets.key");
        let value = load_or_create(&path, random).map_err(|error| {
            format!("{}: can't be used as the key file: {error}", path.display())
        })?;
        keys.push(("file".to_owned(), value));
    }
    Ok(Keyring::new(&keys))
}

fn hash_settings(config: &Config) -> hash::Settings {
    let hash = &config.hash;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    hash::Settings {
        threads: if hash.threads == 0 {
            cores
        } else {
            hash.threads
        },
        queue: hash.queue,
        max_wait: hash.max_wait.0,
        memory_kib: hash.memory_kib,
        iterations: hash.iterations,
        parallelism: hash.parallelism,
        peppers: config
            .secrets
            .peppers
            .iter()
            .map(|key| (key.id.clone(), key.value.secret()))
            .collect(),
    }
}
