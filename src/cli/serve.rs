//! `serve`: listen, work the mail queue, sweep, and stop gracefully.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::accounts::sweep;
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, MailTransport};
use crate::keys::load_or_create;
use crate::mail::worker::{self, Worker};
use crate::random::{Random, Secret};
use crate::web::Front;
use crate::web::admin::Admin;
use crate::web::server::{Bounds, Stop, serve};

/// Connections of the admin listener.
const ADMIN_CONNECTIONS: usize = 64;

/// The sockets of a process, bound before anything else so that a taken port is the first thing said.
#[derive(Debug)]
pub struct Listeners {
    pub public: Vec<TcpListener>,
    pub admin: TcpListener,
}

/// Binds what is configured. A family that the machine lacks is skipped.
///
/// # Errors
/// One sentence that says what to do.
pub async fn bind(config: &Config) -> Result<Listeners, String> {
    let mut public = Vec::new();
    for address in &config.server.listen {
        match TcpListener::bind(address).await {
            Ok(listener) => public.push(listener),
            Err(error) if lacks_family(&error) => {
                tracing::info!(%address, "skipped: this machine lacks the address family");
            }
            Err(error) => return Err(cannot_listen("server.listen", *address, &error)),
        }
    }
    if public.is_empty() {
        return Err("server.listen: this machine has none of these address families".to_owned());
    }
    let at = config.admin.listen;
    let admin = TcpListener::bind(at).await;
    let admin = admin.map_err(|error| cannot_listen("admin.listen", at, &error))?;
    Ok(Listeners { public, admin })
}

fn lacks_family(error: &std::io::Error) -> bool {
    // EAFNOSUPPORT, EADDRNOTAVAIL
    matches!(error.raw_os_error(), Some(97 | 99))
}

fn cannot_listen(key: &str, address: SocketAddr, error: &std::io::Error) -> String {
    format!("{key}: can't listen on {address} ({error}); stop what uses it or choose another")
}

/// `serve`, until SIGINT or SIGTERM.
pub async fn run(config: Config) -> Result<(), String> {
    if let Some(reason) = config.refuses_to_serve() {
        return Err(reason.to_owned());
    }
    crate::telemetry::install(&config.telemetry)?;
    let listeners = bind(&config).await?;
    let app = Arc::new(App::build(config, Clock::system(), Random::system()).await?);
    greet(&app);
    run_with(app, listeners, signalled()).await
}

/// What `serve`, `demo` and the tests share: everything from bound sockets to a graceful stop.
///
/// # Errors
/// One sentence when the admin token can't be made.
pub async fn run_with(app: Arc<App>, listeners: Listeners, stop: Stop) -> Result<(), String> {
    let token = admin_token(&app)?;
    let front = Arc::new(Front::new(app.clone()));
    let mut tasks = tokio::task::JoinSet::new();
    let bounds = bounds(&app.config);
    for listener in listeners.public {
        let front = front.clone();
        tasks.spawn(serve(
            listener,
            bounds,
            stop.clone(),
            move |peer, request| {
                let front = front.clone();
                async move { front.answer(peer, request).await }
            },
        ));
    }
    let address = listeners
        .admin
        .local_addr()
        .map_err(|error| error.to_string())?;
    let admin = Arc::new(Admin::new(app.clone(), address, token, stop.clone()));
    let admin_bounds = Bounds {
        max_connections: ADMIN_CONNECTIONS,
        ..bounds
    };
    tasks.spawn(serve(
        listeners.admin,
        admin_bounds,
        stop.clone(),
        move |peer, request| {
            let admin = admin.clone();
            async move { admin.answer(peer, request).await }
        },
    ));
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
    Ok(())
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

fn bounds(config: &Config) -> Bounds {
    let server = &config.server;
    Bounds {
        header_timeout: server.header_timeout.std(),
        drain_timeout: server.drain_timeout.std(),
        max_header_bytes: server.max_header_bytes,
        max_headers: server.max_headers,
        max_connections: server.max_connections,
    }
}

/// Says where everything is.
fn greet(app: &App) {
    let config = &app.config;
    let origin = &config.server.public_origin;
    let listen: Vec<String> = config
        .server
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    println!(
        "CargoExtra Gateway {} serves {origin}",
        env!("CARGO_PKG_VERSION")
    );
    println!("  listens    {}", listen.join(", "));
    println!("  pages      {origin}/  {origin}/account/login");
    println!("  API docs   {origin}/docs");
    println!("  health     {origin}/healthz  {origin}/readyz");
    println!("  metrics    http://{}/metrics", config.admin.listen);
    match config.mail.transport {
        MailTransport::Capture => {
            println!(
                "  mailbox    http://{}/dev/mailbox  (mail is captured, not sent)",
                config.admin.listen
            );
        }
        MailTransport::File => println!(
            "  mail       written to {}",
            config.mail.directory.display()
        ),
        MailTransport::Smtp => println!("  mail       sent by SMTP"),
    }
}

/// Turns true at SIGINT or SIGTERM.
pub fn signalled() -> Stop {
    let (send, stop) = watch::channel(false);
    tokio::spawn(async move {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .expect("the system has signals");
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: running requests finish first");
        let _ = send.send(true);
        // Kept until the process ends: a closed channel would look like a stop to nobody.
        std::future::pending::<()>().await;
    });
    stop
}
