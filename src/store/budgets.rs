//! What guesses have used up: one row for each kind of count and key. What a state means is for `accounts::budgets` to say.

use super::db::Tx;
use super::values;
use crate::clock::Millis;
use crate::error::Error;

/// Takes a row until the end of the transaction, making it (with an empty state) if need be, so that guesses stand in a row.
pub async fn take(tx: &mut Tx, kind: &str, key: &[u8], now: Millis) -> Result<Vec<u8>, Error> {
    const SQL: &str = "insert into budgets (kind, key, state, touched_at) values ($1, $2, $3, $4)
        on conflict (kind, key) do update set touched_at = excluded.touched_at
        returning state";
    let empty: &[u8] = &[];
    let row = tx.one(SQL, values![kind, key, empty, now]).await?;
    row.get("state")
}

/// Writes down a row that was taken.
pub async fn put(tx: &mut Tx, kind: &str, key: &[u8], state: &[u8]) -> Result<(), Error> {
    const SQL: &str = "update budgets set state = $3 where kind = $1 and key = $2";
    tx.execute(SQL, values![kind, key, state]).await?;
    Ok(())
}

/// Deletes the rows of a kind whose keys lie between these two, both included.
pub async fn clear(tx: &mut Tx, kind: &str, first: &[u8], last: &[u8]) -> Result<u64, Error> {
    const SQL: &str = "delete from budgets where kind = $1 and key >= $2 and key <= $3";
    tx.execute(SQL, values![kind, first, last]).await
}
