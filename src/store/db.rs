//! The only file that knows that there are two databases.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Database, Decode, Executor, Postgres, Row as _, Sqlite, Transaction, Type};

use crate::error::Error;
use crate::private;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a writer waits for SQLite's lock; other processes (the CLI) may hold it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected database.
#[derive(Clone, Debug)]
pub enum Db {
    /// One writer, so that writes wait in a queue of ours and not on SQLite's lock.
    Sqlite {
        write: SqlitePool,
        read: SqlitePool,
    },
    Postgres(PgPool),
}

/// An open transaction; dropped without [`Tx::commit`], it is rolled back.
pub enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// A parameter of a statement.
#[derive(Debug)]
pub enum Value<'a> {
    Text(Option<&'a str>),
    Int(Option<i64>),
    Bytes(Option<&'a [u8]>),
}

/// A row of a result.
pub enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// Types that a column may be read as: `String`, `i64`, `Vec<u8>` and their options.
pub trait Column:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}
impl<T> Column for T where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl Db {
    /// Connects. A SQLite file is made when there is none; a PostgreSQL database must exist.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub async fn connect(
        url: &str,
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> Result<Self, String> {
        if url.starts_with("sqlite://") {
            Self::connect_sqlite(url, max_connections, acquire_timeout).await
        } else {
            let options = PgConnectOptions::from_str(url)
                .map_err(|_| "database.url: is no PostgreSQL address; write postgres://USER:PASSWORD@HOST/NAME".to_owned())?
                .application_name("cargoextra");
            let pool = PgPoolOptions::new()
                .max_connections(max_connections)
                .acquire_timeout(acquire_timeout)
                .connect_with(options)
                .await
                .map_err(|error| unreachable_text(&error))?;
            Ok(Self::Postgres(pool))
        }
    }

    async fn connect_sqlite(url: &str, readers: u32, wait: Duration) -> Result<Self, String> {
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|_| "database.url: is no SQLite address; write sqlite://PATH".to_owned())?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // What is deleted is gone: no address or hash stays behind in a free page.
            .pragma("secure_delete", "on")
            .busy_timeout(BUSY_TIMEOUT);
        if let Some(folder) = options.get_filename().parent() {
            private::folder(folder).map_err(|error| {
                format!(
                    "database.url: the folder {} can't be made: {error}",
                    folder.display()
                )
            })?;
        }
        let path = options.get_filename().to_owned();
        // Names of databases in memory begin with one of these.
        let name = path.to_string_lossy();
        if !name.starts_with(':') && !name.starts_with("file:") {
            // SQLite gives its other files the mode of this one.
            private::file(&path).map_err(|error| {
                format!(
                    "database.url: the file {} can't be made: {error}",
                    path.display()
                )
            })?;
        }
        let open = |size: u32, options: SqliteConnectOptions| {
            SqlitePoolOptions::new()
                .max_connections(size)
                .acquire_timeout(wait)
                .connect_with(options)
        };
        let write = open(1, options.clone())
            .await
            .map_err(|error| unreachable_text(&error))?;
        let read = open(readers, options)
            .await
            .map_err(|error| unreachable_text(&error))?;
        Ok(Self::Sqlite { write, read })
    }

    /// Brings the schema up to date; several processes may do so at once.
    ///
    /// # Errors
    /// One sentence; a schema newer than this binary is refused.
    pub async fn migrate(&self) -> Result<(), String> {
        let done = match self {
            Self::Sqlite { write, .. } => MIGRATIONS.run(write).await,
            Self::Postgres(pool) => MIGRATIONS.run(pool).await,
        };
        done.map_err(|error| match error {
            MigrateError::VersionMissing(version) => format!(
                "the database's schema ({version}) is newer than this program; install the newer program or restore an older database"
            ),
            other => format!("the database's schema can't be brought up to date: {other}"),
        })
    }

    /// Begins a transaction that may write.
    pub async fn begin(&self) -> Result<Tx, Error> {
        match self {
            Self::Sqlite { write, .. } => {
                Ok(Tx::Sqlite(write.begin_with("begin immediate").await?))
            }
            Self::Postgres(pool) => Ok(Tx::Postgres(pool.begin().await?)),
        }
    }

    /// Begins a transaction that only reads.
    pub async fn read(&self) -> Result<Tx, Error> {
        match self {
            Self::Sqlite { read, .. } => Ok(Tx::Sqlite(read.begin().await?)),
            Self::Postgres(pool) => Ok(Tx::Postgres(pool.begin().await?)),
        }
    }

    /// Whether only processes on this machine can have the database.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Sqlite { .. })
    }

    pub async fn close(&self) {
        match self {
            Self::Sqlite { write, read } => {
                read.close().await;
                write.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Tx {
    pub async fn commit(self) -> Result<(), Error> {
        match self {
            Self::Sqlite(tx) => Ok(tx.commit().await?),
            Self::Postgres(tx) => Ok(tx.commit().await?),
        }
    }

    /// Runs a statement; the number of rows it changed.
    pub async fn execute(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, Error> {
        match self {
            Self::Sqlite(tx) => Ok(tx
                .execute(bind::<Sqlite>(sql, values))
                .await?
                .rows_affected()),
            Self::Postgres(tx) => Ok(tx
                .execute(bind::<Postgres>(sql, values))
                .await?
                .rows_affected()),
        }
    }

    /// The first row, if there is one.
    pub async fn first(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<Row>, Error> {
        match self {
            Self::Sqlite(tx) => Ok(tx
                .fetch_optional(bind::<Sqlite>(sql, values))
                .await?
                .map(Row::Sqlite)),
            Self::Postgres(tx) => Ok(tx
                .fetch_optional(bind::<Postgres>(sql, values))
                .await?
                .map(Row::Postgres)),
        }
    }

    /// The one row of a query that always has one, such as a count.
    pub async fn one(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Row, Error> {
        let row = self.first(sql, values).await?;
        row.ok_or_else(|| Error::internal("a query that always has a row had none"))
    }

    /// All rows. Callers bound their number with `limit`.
    pub async fn all(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, Error> {
        match self {
            Self::Sqlite(tx) => {
                let rows = tx.fetch_all(bind::<Sqlite>(sql, values)).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Self::Postgres(tx) => {
                let rows = tx.fetch_all(bind::<Postgres>(sql, values)).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
        }
    }
}

impl Row {
    pub fn get<T: Column>(&self, column: &'static str) -> Result<T, Error> {
        match self {
            // Unchecked: SQLite knows no `bytea`, and a value's own type decides there.
            Self::Sqlite(row) => Ok(row.try_get_unchecked(column)?),
            Self::Postgres(row) => Ok(row.try_get(column)?),
        }
    }
}

fn bind<'q, D>(
    sql: &'static str,
    values: &'q [Value<'q>],
) -> sqlx::query::Query<'q, D, <D as Database>::Arguments>
where
    D: Database,
    Option<&'q str>: sqlx::Encode<'q, D> + Type<D>,
    Option<i64>: sqlx::Encode<'q, D> + Type<D>,
    Option<&'q [u8]>: sqlx::Encode<'q, D> + Type<D>,
    <D as Database>::Arguments: sqlx::IntoArguments<D>,
{
    values
        .iter()
        .fold(sqlx::query(sql), |query, value| match value {
            Value::Text(text) => query.bind(*text),
            Value::Int(number) => query.bind(*number),
            Value::Bytes(bytes) => query.bind(*bytes),
        })
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Internal(Box::new(error))
    }
}

fn unreachable_text(error: &sqlx::Error) -> String {
    format!("the database can't be reached; check database.url and that it is running ({error})")
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(Some(value))
    }
}
impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(Some(value))
    }
}
impl<'a> From<&'a Option<String>> for Value<'a> {
    fn from(value: &'a Option<String>) -> Self {
        Self::Text(value.as_deref())
    }
}
impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(value: Option<&'a str>) -> Self {
        Self::Text(value)
    }
}
impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}
impl From<Option<i64>> for Value<'_> {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}
impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(Some(value))
    }
}
impl<'a> From<&'a Vec<u8>> for Value<'a> {
    fn from(value: &'a Vec<u8>) -> Self {
        Self::Bytes(Some(value))
    }
}
impl<'a> From<&'a Option<Vec<u8>>> for Value<'a> {
    fn from(value: &'a Option<Vec<u8>>) -> Self {
        Self::Bytes(value.as_deref())
    }
}
