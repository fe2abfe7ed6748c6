//! `demo`: everything at once, and nothing is kept.

use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use crate::accounts::lifecycle;
use crate::app::App;
use crate::clock::Clock;
use crate::config::edge::routes::{RawGateway, RouteSettings};
use crate::config::{ClientAddress, Config, MailTransport};
use crate::random::Random;

use super::{listeners, serve};

mod shipments;

const ADA: &str = "ada@example.com";

pub async fn run(mut config: Config) -> Result<(), String> {
    let random = Random::system();
    let folder = std::env::temp_dir().join(format!("cargoextra-demo-{}", random.id(0)));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?;
    make_local(&mut config, &folder)?;
    config.edge.routes = routes(shipments::start().await?)?;
    crate::telemetry::install(&config.telemetry)?;
    let (listeners, _) = listeners::bind(&config, Vec::new()).await?;
    let app = Arc::new(App::build(config, Clock::system(), random).await?);
    let password = app.random.secret();
    lifecycle::create(&app, ADA, password.reveal())
        .await
        .map_err(|refusal| format!("the demo's account can't be made: {refusal:?}"))?;
    let prepared = serve::Prepared::new(&app)?;
    let stop = serve::signalled(&app);
    invite(&app, password.reveal());
    let done = serve::run_with(app, prepared, listeners, stop.subscribe()).await;
    let _ = std::fs::remove_dir_all(&folder);
    done
}

/// Loopback and throw-away, whatever the configuration says.
fn make_local(config: &mut Config, folder: &std::path::Path) -> Result<(), String> {
    let port = config
        .server
        .listen
        .first()
        .map_or(9000, std::net::SocketAddr::port);
    let loopback = |port: u16| [format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    let parse = |text: &String| text.parse().expect("a loopback address");
    config.server.listen = loopback(port).iter().map(parse).collect();
    config.server.public_origin = format!("http://localhost:{port}");
    config.server.tls.listen.clear();
    config.server.client_address = ClientAddress::Peer;
    config.server.trusted_proxies.clear();
    config.server.data_dir = folder.to_owned();
    config.secrets.keys.clear();
    config.admin.listen = parse(&format!("127.0.0.1:{}", config.admin.listen.port()));
    config.mail.transport = MailTransport::Capture;
    config.database.url = format!("sqlite://{}", folder.join("demo.db").display()).into();
    Ok(())
}

/// The sample service is the only one: whoever is signed in is told to it.
fn routes(service: std::net::SocketAddr) -> Result<Vec<RouteSettings>, String> {
    let text = format!(
        "routes = [{{ prefix = \"/api/v1/shipment\", upstreams = [\"http://{service}\"], auth = \"optional\" }}]"
    );
    let raw: RawGateway = toml::from_str(&text).map_err(|error| error.to_string())?;
    let mut problems = Vec::new();
    let routes = raw.validate(&mut problems);
    match problems.is_empty() {
        true => Ok(routes),
        false => Err(problems.join("; ")),
    }
}

fn invite(app: &App, password: &str) {
    let origin = &app.config.server.public_origin;
    let mailbox = format!("http://{}/dev/mailbox", app.config.admin.listen);
    println!("CargoExtra demo: nothing is kept when it ends (Ctrl-C).

  start here {origin}/
  API docs   {origin}/docs
  mailbox    {mailbox}
  account    {ADA}
  password   {password}

Try the recovery:

  curl -s {origin}/api/v1/user/forgot-password -H 'content-type: application/json' -d '{{\"email\":\"{ADA}\"}}'
  curl -s '{mailbox}/messages?to={ADA}'          # the code is in the newest mail
  curl -s {origin}/api/v1/user/confirm-otp-reset -H 'content-type: application/json' -d '{{\"resetToken\":\"CODE\"}}'
  curl -s {origin}/api/v1/user/password-reset -H 'content-type: application/json' -d '{{\"email\":\"{ADA}\",\"password\":\"NewSecurePass123\"}}'
  curl -s {origin}/api/v1/user/login -H 'content-type: application/json' -d '{{\"email\":\"{ADA}\",\"password\":\"NewSecurePass123\"}}'

Try the gateway (a sample service stands behind /api/v1/shipment):

  curl -s {origin}/api/v1/shipment                                     # anybody may ask
  curl -s {origin}/api/v1/shipment -H 'authorization: Bearer TOKEN'    # with the token of the login above the service is told who asks
  curl -sN {origin}/api/v1/shipment/4711/positions                     # a stream of events
  curl -si {origin}/.env                                               # what only scanners ask for: 403
");
}
