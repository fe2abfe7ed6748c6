//! What is kept. Plain functions, `&mut Tx` first, one SQL text each for both databases.
//!
//! The rules:
//! 1. Columns are `text`, `bigint`, `bytea`. No booleans: state is a nullable time. Ids are text, made by us.
//! 2. `$1` placeholders; no query builder. Time and randomness are arguments, never `now()` or `random()` in SQL.
//! 3. Never match on a constraint's name: `on conflict … do nothing` and the number of rows changed.
//! 4. Every state change is one conditional `update … where <still allowed>` that must change exactly one row.
//! 5. A transaction that touches the flows of an account takes the account's row first ([`accounts::lock_row`]), so that two of
//!    them wait for one another and never dead-lock.
//! 6. Slow work (argon2, SMTP, HTTP) never happens while a transaction is open.
//! 7. Migrations are append-only, expand then contract; a newer schema than the binary's is refused.

pub mod accounts;
pub mod audit;
pub mod bans;
pub mod budgets;
pub mod db;
pub mod outbox;
pub mod requests;
pub mod resets;
pub mod session_cache;
pub mod sessions;
pub mod sweep;
pub mod verifications;

/// The parameters of a statement, in order.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::store::db::Value::from($value)),*] };
}
pub(crate) use values;
