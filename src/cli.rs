//! The command line: one file for each family of commands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::App;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::random::Random;

mod account;
mod audit;
mod ban;
mod demo;
mod explain;
mod handover;
pub mod listeners;
mod outbox;
mod reload;
pub mod serve;
mod settings;

/// API gateway with customer accounts inside it.
///
/// Without a command it serves. With the embedded default that means port 9000, SQLite under ./data/, and mail captured at
/// http://127.0.0.1:9001/dev/mailbox. Wherever your clients can keep the grant that confirm-otp-reset gives them, set
/// accounts.reset.proof = "grant"; a server-side front end needs it.
#[derive(Debug, Parser)]
#[command(name = "cargoextra", version)]
struct Arguments {
    /// Configuration file, laid over the built-in default; the environment (CARGOEXTRA_SECTION__KEY) goes over both
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default)
    Serve {
        /// Take the place of the running process of the same server.data_dir, without losing a connection; if there is none, just serve
        #[arg(long)]
        take_over: bool,
    },
    /// Serve with a throw-away store, an account, and the calls to try; loopback only
    Demo,
    /// Bring the database's schema up to date
    Migrate {
        /// End all sessions and open flows: for a database that was restored from a backup
        #[arg(long)]
        after_restore: bool,
    },
    /// Check or show the configuration
    #[command(subcommand)]
    Config(settings::Command),
    /// Look after accounts
    #[command(subcommand)]
    Account(account::Command),
    /// Look after the mail queue
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Look after the networks that are banned
    #[command(subcommand)]
    Ban(ban::Command),
    /// Show the audit log, newest first
    Audit {
        /// Only this address
        #[arg(long)]
        email: Option<String>,
        /// How many entries
        #[arg(long, default_value_t = 100)]
        limit: i64,
    },
    /// Say which guard rule would fire for a request, which limits count it, and where it goes
    Explain(explain::Request),
    /// Print the OpenAPI description
    Openapi,
}

/// Parses, runs, and says in one sentence what went wrong.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(shown) => {
            let _ = shown.print();
            return ExitCode::from(u8::try_from(shown.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("cargoextra: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), String> {
    let file = arguments.config.as_deref();
    match &arguments.command {
        Some(Command::Config(settings::Command::Check)) => return settings::check(file),
        Some(Command::Config(settings::Command::Show)) => {
            return settings::show(file, arguments.json);
        }
        _ => {}
    }
    let config =
        Config::load(file, config::environment()).map_err(|problems| problems.to_string())?;
    let command = arguments
        .command
        .unwrap_or(Command::Serve { take_over: false });
    let passed = match command {
        Command::Serve { .. } => config::passed_sockets()?,
        _ => Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the system gives no threads: {error}"))?;
    let json = arguments.json;
    runtime.block_on(async move {
        match command {
            Command::Serve { take_over } => serve::run(config, take_over, passed).await,
            Command::Demo => demo::run(config).await,
            Command::Migrate { after_restore } => migrate(config, after_restore).await,
            Command::Account(command) => {
                account::run(&command_app(config).await?, command, json).await
            }
            Command::Outbox(command) => {
                outbox::run(&command_app(config).await?, command, json).await
            }
            Command::Ban(command) => ban::run(&command_app(config).await?, command, json).await,
            Command::Audit { email, limit } => {
                audit::run(&command_app(config).await?, email.as_deref(), limit, json).await
            }
            Command::Explain(request) => explain::run(config, &request, json).await,
            Command::Openapi => {
                print_json(&crate::web::openapi::document(&config.server.public_origin))
            }
            Command::Config(_) => reload::run(&config, json).await,
        }
    })
}

/// The application as a command uses it: the same store and keys, nothing that listens.
async fn command_app(config: Config) -> Result<App, String> {
    App::build(config, Clock::system(), Random::system()).await
}

async fn migrate(config: Config, after_restore: bool) -> Result<(), String> {
    let app = command_app(config).await?;
    if after_restore {
        let ended = crate::accounts::lifecycle::end_everything(&app)
            .await
            .map_err(|error| format!("sessions and flows could not be ended: {error}"))?;
        println!("Ended {ended} sessions and open flows.");
    }
    println!("The schema is up to date.");
    Ok(())
}

fn print_json(value: &serde_json::Value) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}
