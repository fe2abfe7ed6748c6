//! `account …`: what an operator does to accounts.

use std::io::BufRead;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::accounts::lifecycle::{self, Refusal};
use crate::accounts::reset_password;
use crate::app::App;
use crate::clock::rfc3339;
use crate::store::accounts::{self, Account};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The newest accounts
    List {
        #[arg(long, default_value_t = 100)]
        limit: i64,
    },
    /// One account
    Show { email: String },
    /// Make a verified account; the password is read from standard input
    Create { email: String },
    /// Lock an account: its sessions and open resets end
    Lock { email: String },
    /// Unlock an account
    Unlock { email: String },
    /// Delete an account and everything of it but its audit entries
    Delete { email: String },
    /// Print a link that lets the account's owner set a new password, good for as long as a mailed code
    ResetLink { email: String },
}

pub async fn run(app: &App, command: Command, as_json: bool) -> Result<(), String> {
    match command {
        Command::List { limit } => {
            let mut tx = app.db.read().await.map_err(|error| error.to_string())?;
            let list = accounts::list(&mut tx, limit)
                .await
                .map_err(|error| error.to_string())?;
            print(&list, as_json)
        }
        Command::Show { email } => print(&[said(lifecycle::show(app, &email).await)?], as_json),
        Command::Create { email } => {
            let mut password = String::new();
            std::io::stdin()
                .lock()
                .read_line(&mut password)
                .map_err(|error| error.to_string())?;
            let password = password.trim_end_matches(['\r', '\n']);
            print(
                &[said(lifecycle::create(app, &email, password).await)?],
                as_json,
            )
        }
        Command::Lock { email } => print(&[said(lifecycle::lock(app, &email).await)?], as_json),
        Command::Unlock { email } => print(&[said(lifecycle::unlock(app, &email).await)?], as_json),
        Command::Delete { email } => {
            let gone = said(lifecycle::delete(app, &email).await)?;
            println!("Deleted {}.", gone.email);
            Ok(())
        }
        Command::ResetLink { email } => {
            let account = said(lifecycle::show(app, &email).await)?;
            let code = reset_password::by_operator(app, &account)
                .await
                .map_err(|error| error.to_string())?;
            let origin = &app.config.server.public_origin;
            println!("{origin}/account/confirm#code={}", code.shown());
            Ok(())
        }
    }
}

fn said<T>(outcome: Result<T, Refusal>) -> Result<T, String> {
    outcome.map_err(|refusal| match refusal {
        Refusal::NoSuchAccount => "there is no account with this address".to_owned(),
        Refusal::NothingToDo => "it is so already; nothing was changed".to_owned(),
        Refusal::Failed(error) => error.to_string(),
    })
}

fn print(list: &[Account], as_json: bool) -> Result<(), String> {
    if as_json {
        let list: Vec<Value> = list.iter().map(json_of).collect();
        return super::print_json(&Value::Array(list));
    }
    for account in list {
        let state = match (account.locked_at, account.verified_at) {
            (Some(_), _) => "locked",
            (None, Some(_)) => "verified",
            (None, None) => "unverified",
        };
        println!(
            "{}  {:<10}  {}  {}",
            account.id,
            state,
            rfc3339(account.created_at),
            account.email
        );
    }
    Ok(())
}

fn json_of(account: &Account) -> Value {
    json!({
        "id": account.id,
        "email": account.email,
        "firstName": account.first_name,
        "lastName": account.last_name,
        "phone": account.phone,
        "createdAt": rfc3339(account.created_at),
        "verifiedAt": account.verified_at.map(rfc3339),
        "lockedAt": account.locked_at.map(rfc3339),
    })
}
