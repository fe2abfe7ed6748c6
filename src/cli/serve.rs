//! `serve`: listen, work the mail queue, sweep, and stop gracefully.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::accounts::sweep;
use crate::app::App;
use crate::clock::{Clock, Millis};
use crate::config::{self, Config, MailTransport};
use crate::cores::Cores;
use crate::keys::load_or_create;
use crate::mail::worker::{self, Worker};
use crate::random::{Random, Secret};
use crate::web::Front;
use crate::web::admin::Admin;
use crate::web::server::{Bounds, Stop, serve, stopped};

/// How finely health checks are timed.
const HEALTH_TICK: Duration = Duration::from_millis(100);
/// Connections of the admin listener.
const ADMIN_CONNECTIONS: usize = 64;

/// The sockets of a process, bound before anything else so that a taken port is the first thing said.
#[derive(Debug)]
pub struct Listeners {
    pub public: Vec<TcpListener>,
    /// Those that speak TLS.
    pub tls: Vec<TcpListener>,
    pub admin: TcpListener,
}

/// Binds what is configured. A family that the machine lacks is skipped.
///
/// # Errors
/// One sentence that says what to do.
pub async fn bind(config: &Config) -> Result<Listeners, String> {
    let public = bind_each("server.listen", &config.server.listen).await?;
    let tls = bind_each("server.tls.listen", &config.server.tls.listen).await?;
    if public.is_empty() && tls.is_empty() {
        return Err("server.listen: this machine has none of these address families".to_owned());
    }
    let at = config.admin.listen;
    let admin = TcpListener::bind(at).await;
    let admin = admin.map_err(|error| cannot_listen("admin.listen", at, &error))?;
    Ok(Listeners { public, tls, admin })
}

async fn bind_each(key: &str, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, String> {
    let mut bound = Vec::new();
    for address in addresses {
        match TcpListener::bind(address).await {
            Ok(listener) => bound.push(listener),
            Err(error) if lacks_family(&error) => {
                tracing::info!(%address, "skipped: this machine lacks the address family");
            }
            Err(error) => return Err(cannot_listen(key, *address, &error)),
        }
    }
    Ok(bound)
}

fn lacks_family(error: &std::io::Error) -> bool {
    // EAFNOSUPPORT, EADDRNOTAVAIL
    matches!(error.raw_os_error(), Some(97 | 99))
}

fn cannot_listen(key: &str, address: SocketAddr, error: &std::io::Error) -> String {
    format!("{key}: can't listen on {address} ({error}); stop what uses it or choose another")
}

/// `serve`, until SIGINT or SIGTERM.
pub async fn run(config: Config, file: Option<PathBuf>) -> Result<(), String> {
    if let Some(reason) = config.refuses_to_serve() {
        return Err(reason.to_owned());
    }
    crate::telemetry::install(&config.telemetry)?;
    let listeners = bind(&config).await?;
    let app = Arc::new(App::build(config, Clock::system(), Random::system()).await?);
    // Whoever reads that we serve may also tell us to stop.
    let stop = signalled(&app);
    greet(&app);
    reload_when_told(app.clone(), file);
    run_with(app, listeners, stop).await
}

/// What `serve`, `demo` and the tests share: everything from bound sockets to a graceful stop.
///
/// # Errors
/// One sentence when the admin token can't be made, or the threads that serve connections.
pub async fn run_with(app: Arc<App>, listeners: Listeners, stop: Stop) -> Result<(), String> {
    let token = admin_token(&app)?;
    let front = Arc::new(Front::new(app.clone()));
    let mut tasks = tokio::task::JoinSet::new();
    let cores = Cores::start(app.config.server.threads)
        .map(Arc::new)
        .map_err(|error| format!("server.threads: can't be started ({error}); set fewer"))?;
    let bounds = Bounds::new(&app).on(cores.clone());
    let plain = listeners
        .public
        .into_iter()
        .map(|plain| (plain, bounds.clone()));
    let tls = listeners
        .tls
        .into_iter()
        .map(|tls| (tls, bounds.clone().over_tls()));
    for (listener, bounds) in plain.chain(tls) {
        let front = front.clone();
        tasks.spawn(serve(
            listener,
            bounds,
            stop.clone(),
            move |connection, request| {
                let front = front.clone();
                async move { front.answer(connection, request).await }
            },
        ));
    }
    let address = listeners
        .admin
        .local_addr()
        .map_err(|error| error.to_string())?;
    let admin = Arc::new(Admin::new(app.clone(), address, token, stop.clone()));
    tasks.spawn(serve(
        listeners.admin,
        Bounds::for_admin(&app, ADMIN_CONNECTIONS),
        stop.clone(),
        move |connection, request| {
            let admin = admin.clone();
            async move { admin.answer(connection.peer, request).await }
        },
    ));
    tasks.spawn(check_health(app.clone(), stop.clone()));
    let sweeping = (app.clone(), stop.clone());
    tasks.spawn(async move { sweep::run(&sweeping.0, sweeping.1).await });
    // The worker stops after the listeners have drained, so that the mail of a last request is not left to the next start.
    let (worker_stop, worker_stopped) = watch::channel(false);
    let working = app.clone();
    let mail = tokio::spawn(async move {
        let worker = worker(&working);
        if let Err(error) = worker.adopt_orphans().await {
            tracing::error!(%error, "the mail queue can't be read");
        }
        worker::run(worker, &working.mail_queued, worker_stopped).await;
    });
    while tasks.join_next().await.is_some() {}
    let _ = worker_stop.send(true);
    let _ = mail.await;
    app.db.close().await;
    // Only now: a connection to the database lives on the runtime of the core that opened it, and any core may use it.
    drop(bounds);
    if let Some(cores) = Arc::into_inner(cores) {
        let _ = tokio::task::spawn_blocking(|| cores.end()).await;
    }
    Ok(())
}

/// Asks the upstreams of routes with `health` how they are, each at its own interval.
async fn check_health(app: Arc<App>, mut stop: Stop) {
    let mut every = tokio::time::interval(HEALTH_TICK);
    let mut due: HashMap<String, Millis> = HashMap::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = every.tick() => {}
        }
        let (edge, now) = (app.edge.load_full(), app.clock.now());
        for (route, upstreams) in edge.routes.all().iter().zip(&edge.upstreams) {
            let Some(health) = route.settings().health.clone() else {
                continue;
            };
            let next = due.entry(route.settings().name.clone()).or_insert(now);
            if *next <= now {
                *next = now + health.interval_ms as Millis;
                let upstreams = upstreams.clone();
                tokio::spawn(async move { upstreams.check_health(&health).await });
            }
        }
    }
}

/// At SIGHUP, reads the configuration again and puts guard, limits, routes and certificates in force, all of them or none.
fn reload_when_told(app: Arc<App>, file: Option<PathBuf>) {
    tokio::spawn(async move {
        let kind = tokio::signal::unix::SignalKind::hangup();
        let mut told = tokio::signal::unix::signal(kind).expect("the system has signals");
        while told.recv().await.is_some() {
            match Config::load(file.as_deref(), config::environment()) {
                Ok(config) => match app.reload(&config) {
                    Ok(()) => tracing::info!(
                        "reloaded guard, limits, routes and certificates; the rest needs a restart"
                    ),
                    Err(problem) => {
                        tracing::error!(%problem, "not reloaded; all stays as it was");
                    }
                },
                Err(problems) => tracing::error!(%problems, "not reloaded; all stays as it was"),
            }
        }
    });
}

/// The mail worker of an application.
pub fn worker(app: &App) -> Worker<'_> {
    Worker {
        config: &app.config,
        clock: &app.clock,
        keys: &app.keys,
        db: &app.db,
        transport: &app.mail,
        metrics: &app.metrics,
        node: &app.node,
    }
}

fn admin_token(app: &App) -> Result<Secret<String>, String> {
    let path = app.config.server.data_dir.join("admin.token");
    load_or_create(&path, &app.random).map_err(|error| {
        format!(
            "{}: can't be used as the admin token: {error}",
            path.display()
        )
    })
}

/// Says where everything is. Nobody has to listen: a closed standard output (`| head -1`) is no reason to stop.
fn greet(app: &App) {
    let config = &app.config;
    let origin = &config.server.public_origin;
    let listen: Vec<String> = config.listens().map(ToString::to_string).collect();
    let admin = config.admin.listen;
    let mail = match config.mail.transport {
        MailTransport::Capture => {
            format!("mailbox    http://{admin}/dev/mailbox  (mail is captured, not sent)")
        }
        MailTransport::File => format!("mail       written to {}", config.mail.directory.display()),
        MailTransport::Smtp => "mail       sent by SMTP".to_owned(),
    };
    let greeting = format!(
        "CargoExtra Gateway {} serves {origin}
  listens    {}
  pages      {origin}/  {origin}/account/login
  API docs   {origin}/docs
  health     {origin}/healthz  {origin}/readyz
  metrics    http://{admin}/metrics
  {mail}
",
        env!("CARGO_PKG_VERSION"),
        listen.join(", ")
    );
    let _ = std::io::stdout().write_all(greeting.as_bytes());
}

/// Turns true at SIGINT or SIGTERM. Whoever presses Ctrl-C waits for the end: then idle connections are not waited for.
pub fn signalled(app: &Arc<App>) -> Stop {
    let (send, stop) = watch::channel(false);
    // Listened to before this returns, not when the task gets its turn: until then a signal would end the process on the spot.
    let listen = |kind| tokio::signal::unix::signal(kind).expect("the system has signals");
    let mut interrupt = listen(tokio::signal::unix::SignalKind::interrupt());
    let mut terminate = listen(tokio::signal::unix::SignalKind::terminate());
    let app = app.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => app.hurried.store(true, Ordering::Relaxed),
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: running requests finish first");
        let _ = send.send(true);
        // Kept until the process ends: a closed channel would look like a stop to nobody.
        std::future::pending::<()>().await;
    });
    stop
}
