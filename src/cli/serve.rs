//! `serve`: listen, work the mail queue, sweep, reload, and stop gracefully.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::handover::{self, Door};
use super::listeners::{self, Listeners};

use crate::accounts::sweep;
use crate::app::{App, bans};
use crate::clock::{Clock, Millis};
use crate::config::{Config, MailTransport};
use crate::cores::Cores;
use crate::keys::load_or_create;
use crate::mail::worker::{self, Worker};
use crate::random::{Random, Secret};
use crate::web::Front;
use crate::web::admin::Admin;
use crate::web::server::{Bounds, Stop, serve, stopped};

/// How finely health checks are timed.
const HEALTH_TICK: Duration = Duration::from_millis(100);
/// How often idle connections to upstreams are looked through.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Connections of the admin listener.
const ADMIN_CONNECTIONS: usize = 64;

/// `serve`, until SIGINT or SIGTERM, or until another process has taken over. `passed` are sockets that a service manager bound.
pub async fn run(
    config: Config,
    take_over: bool,
    mut passed: Vec<std::net::TcpListener>,
) -> Result<(), String> {
    if let Some(reason) = config.refuses_to_serve() {
        return Err(reason.to_owned());
    }
    crate::telemetry::install(&config.telemetry)?;
    demand_configured(&config, &passed)?;
    let mut before = None;
    if take_over {
        match handover::take(&config).await? {
            Some((old, sockets)) => {
                passed.extend(sockets);
                before = Some(old);
            }
            None => tracing::info!("nobody to take over from: an ordinary start"),
        }
    }
    let took_over = before.is_some();
    let (listeners, unwanted) = listeners::bind(&config, passed).await?;
    let sockets = duplicates(&listeners)?;
    let app = Arc::new(App::build(config, Clock::system(), Random::system()).await?);
    let prepared = Prepared::new(&app)?;
    let door = Door::build(&app.config);
    // Whoever reads that we serve may also tell us to stop or to reload, and from the next step on nobody else serves.
    let stop = signalled(&app);
    if let Some(old) = before {
        old.ready().await?;
        tracing::info!(closed = ?unwanted, "took over from the process before");
    } else if let Err(error) = worker(&app).adopt_orphans().await {
        tracing::error!(%error, "the mail queue can't be read");
    }
    open_door(door, took_over, sockets, &stop).await;
    reload_when_told(app.clone());
    greet(&app);
    run_with(app, prepared, listeners, stop.subscribe()).await
}

/// What can fail before a process serves, beside its sockets and its application: had before the process that it takes over from is told
/// to stop.
#[derive(Debug)]
pub struct Prepared {
    token: Secret<String>,
    cores: Arc<Cores>,
}

impl Prepared {
    /// # Errors
    /// One sentence when the admin token can't be made, or the threads that serve connections.
    pub fn new(app: &App) -> Result<Self, String> {
        let started = Cores::start(app.config.server.threads);
        let cores = started
            .map_err(|error| format!("server.threads: can't be started ({error}); set fewer"))?;
        Ok(Self {
            token: admin_token(app)?,
            cores: Arc::new(cores),
        })
    }
}

/// A service manager's socket that nobody serves would leave its clients hanging.
fn demand_configured(config: &Config, passed: &[std::net::TcpListener]) -> Result<(), String> {
    let configured =
        |at: &SocketAddr| config.listens().any(|listen| listen == at) || config.admin.listen == *at;
    let mut addresses = passed.iter().filter_map(|socket| socket.local_addr().ok());
    match addresses.find(|at| !configured(at)) {
        None => Ok(()),
        Some(at) => Err(format!(
            "LISTEN_FDS: a socket for {at} was passed; name this address in server.listen, server.tls.listen or admin.listen, or take it out of the socket unit"
        )),
    }
}

/// The sockets once more, for the process that comes after us.
fn duplicates(listeners: &Listeners) -> Result<Vec<OwnedFd>, String> {
    let public = listeners.public.iter().chain(&listeners.tls);
    let all = public.chain([&listeners.admin]);
    all.map(|listener| listener.as_fd().try_clone_to_owned())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the system gives no more files: {error}"))
}

/// Lets another process take over: then this one stops as at SIGTERM.
async fn open_door(
    door: std::io::Result<Door>,
    took_over: bool,
    sockets: Vec<OwnedFd>,
    stop: &watch::Sender<bool>,
) {
    let opened = match door {
        Ok(door) => door.publish(took_over).await.map(|()| door),
        Err(error) => Err(error),
    };
    let door = match opened {
        Ok(door) => door,
        Err(error) => {
            tracing::warn!(%error, "no door in server.data_dir: `serve --take-over` will not find this process");
            return;
        }
    };
    let stop = stop.clone();
    tokio::spawn(async move {
        if door.wait(sockets, stop.subscribe()).await {
            tracing::info!("a new process has taken over; running requests finish first");
            stop.send_replace(true);
        }
    });
}

/// What `serve` and `demo` share: everything from bound sockets to a graceful stop.
///
/// # Errors
/// One sentence when the admin listener has no address.
pub async fn run_with(
    app: Arc<App>,
    prepared: Prepared,
    listeners: Listeners,
    stop: Stop,
) -> Result<(), String> {
    let Prepared { token, cores } = prepared;
    let front = Arc::new(Front::new(app.clone()));
    let mut tasks = tokio::task::JoinSet::new();
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
    tasks.spawn(flush_access_log(app.clone(), stop.clone()));
    tasks.spawn(bans::run(app.clone(), stop.clone()));
    let sweeping = (app.clone(), stop.clone());
    tasks.spawn(async move { sweep::run(&sweeping.0, sweeping.1).await });
    // The worker stops after the listeners have drained, so that the mail of a last request is not left to the next start.
    let (worker_stop, worker_stopped) = watch::channel(false);
    let working = app.clone();
    let mail = tokio::spawn(async move {
        worker::run(worker(&working), &working.mail_queued, worker_stopped).await;
    });
    let (tracing, trace_stopped) = (app.clone(), worker_stop.subscribe());
    let traces = tokio::spawn(async move { tracing.tracer.export(trace_stopped).await });
    while tasks.join_next().await.is_some() {}
    let _ = worker_stop.send(true);
    let _ = tokio::join!(mail, traces);
    app.access_log.flush();
    app.db.close().await;
    // Only now: a connection to the database lives on the runtime of the core that opened it, and any core may use it.
    drop(bounds);
    if let Some(cores) = Arc::into_inner(cores) {
        let _ = tokio::task::spawn_blocking(|| cores.end()).await;
    }
    Ok(())
}

/// Writes the lines that have been collected, again and again.
async fn flush_access_log(app: Arc<App>, mut stop: Stop) {
    let period = app.config.telemetry.access_log_flush.std();
    if period.is_zero() {
        return;
    }
    let mut every = tokio::time::interval(period);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = every.tick() => app.access_log.flush(),
        }
    }
}

/// Asks the upstreams of routes with `health` how they are, each at its own interval, and closes connections that were idle for too long.
async fn check_health(app: Arc<App>, mut stop: Stop) {
    let mut every = tokio::time::interval(HEALTH_TICK);
    let mut idle = tokio::time::interval(IDLE_TICK);
    let mut due: HashMap<String, Millis> = HashMap::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = idle.tick() => {
                app.edge.load().upstreams.iter().for_each(|upstreams| upstreams.drop_idle());
                continue;
            }
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

/// At SIGHUP, reads the configuration again and puts guard, limits, routes and certificates in force, all of them or none. The log says which.
fn reload_when_told(app: Arc<App>) {
    // Listened to before this returns: until then the signal would end the process.
    let kind = tokio::signal::unix::SignalKind::hangup();
    let mut told = tokio::signal::unix::signal(kind).expect("the system has signals");
    tokio::spawn(async move {
        while told.recv().await.is_some() {
            let app = app.clone();
            let reloading = tokio::task::spawn_blocking(move || app.reload_from_source());
            if let Err(error) = reloading.await {
                tracing::error!(%error, "a reload broke off");
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
pub fn signalled(app: &Arc<App>) -> watch::Sender<bool> {
    let (stop, _) = watch::channel(false);
    // Listened to before this returns, not when the task gets its turn: until then a signal would end the process on the spot.
    let listen = |kind| tokio::signal::unix::signal(kind).expect("the system has signals");
    let mut interrupt = listen(tokio::signal::unix::SignalKind::interrupt());
    let mut terminate = listen(tokio::signal::unix::SignalKind::terminate());
    let send = stop.clone();
    let app = app.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => app.hurried.store(true, Ordering::Relaxed),
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: running requests finish first");
        send.send_replace(true);
        // Kept until the process ends: a closed channel would look like a stop to nobody.
        std::future::pending::<()>().await;
    });
    stop
}
