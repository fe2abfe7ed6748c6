-- One schema for SQLite and PostgreSQL: text, bigint, bytea only. Times are milliseconds since 1970; state is a nullable time.

create table accounts (
    id text primary key,
    email text not null,            -- as its owner wrote it: mail goes here
    email_canonical text not null,  -- what it is compared by
    password_hash text,             -- PHC; null until verified, or when there is none
    first_name text,
    last_name text,
    phone text,
    verified_at bigint,
    locked_at bigint,
    password_changed_at bigint,
    signed_in_at bigint,
    created_at bigint not null
);
create unique index accounts_by_email on accounts (email_canonical);

-- What somebody typed for an address that is not verified yet. One verified registration becomes the account; the others go.
create table registrations (
    id text primary key,
    account_id text not null references accounts (id) on delete cascade,
    email text not null,
    password_hash text not null,
    first_name text,
    last_name text,
    phone text,
    network text not null,
    created_at bigint not null
);
create index registrations_by_account on registrations (account_id, created_at);

-- Mailed codes that verify one registration. Like resets they belong to an address at first: a code that is sent again gets its
-- registration from the mail worker.
create table verifications (
    id text primary key,
    address_hash bytea not null,
    registration_id text references registrations (id) on delete cascade,
    key_id text not null,
    nonce bytea not null,
    code_hash bytea not null,
    reference text not null,
    network text not null,          -- of who asked: a reference is told to nobody else
    started_at bigint not null,
    expires_at bigint not null,
    consumed_at bigint,
    expired_at bigint
);
create unique index verifications_by_code on verifications (code_hash);
create index verifications_by_registration on verifications (registration_id);
create index verifications_by_address on verifications (address_hash, expires_at);
create index verifications_by_age on verifications (expires_at);

-- Resets belong to an address until the mail worker has found its account, so that asking looks the same for every address.
create table resets (
    id text primary key,
    address_hash bytea not null,
    account_id text references accounts (id) on delete cascade,
    key_id text not null,
    nonce bytea not null,
    code_hash bytea not null,
    reference text not null,
    network text not null,
    client_hash bytea,               -- of the asking network and User-Agent; null without a User-Agent
    started_at bigint not null,
    expires_at bigint not null,
    confirmed_at bigint,
    confirmed_until bigint,
    confirmed_by bytea,              -- client_hash of the confirm
    fallback_until bigint,           -- null: only the grant proves it
    grant_hash bytea,
    consumed_at bigint,
    expired_at bigint
);
create unique index resets_by_code on resets (code_hash);
create index resets_by_account on resets (account_id);
create index resets_by_address on resets (address_hash, expires_at);
create index resets_by_client on resets (client_hash, started_at);
create index resets_by_age on resets (expires_at);
create index resets_by_confirmer on resets (confirmed_by, confirmed_at);

-- One row for each address that was asked about and purpose, known or not: what a repeat answers, and the lock that puts askers in a row.
create table requests (
    address_hash bytea not null,
    purpose text not null,
    key_id text not null,
    reference text not null,
    asked_at bigint not null,
    sent_at bigint not null,        -- the last that a mail went out for: only such a one makes others wait
    touched_at bigint not null,
    primary key (address_hash, purpose)
);
create index requests_by_age on requests (touched_at);

-- One row for each mail that somebody caused to an address within the last day: what the budgets count.
create table caused_mails (
    id text primary key,
    address_hash bytea not null,
    counted_as text not null,       -- recovery | other
    network text not null,
    known_client bigint,            -- the time, when the asker was known to the account
    caused_at bigint not null
);
create index caused_mails_by_address on caused_mails (address_hash, counted_as, caused_at);
create index caused_mails_by_age on caused_mails (caused_at);

-- What guesses have used up, by kind of count (accounts/budgets.rs says what key and state are).
create table budgets (
    kind text not null,             -- codes_network | codes_site | codes_server | password
    key bytea not null,
    state bytea not null,
    touched_at bigint not null,
    primary key (kind, key)
);
create index budgets_by_age on budgets (touched_at);

create table sessions (
    id text primary key,
    account_id text not null references accounts (id) on delete cascade,
    key_id text not null,
    secret_hash bytea not null,
    network text not null,
    user_agent text not null,
    client_hash bytea,
    created_at bigint not null,
    seen_at bigint not null,
    expires_at bigint not null,     -- whatever happens
    ended_at bigint,
    ended_why text
);
create unique index sessions_by_secret on sessions (secret_hash);
create index sessions_by_account on sessions (account_id);
create index sessions_by_age on sessions (expires_at);
create index sessions_by_client on sessions (client_hash, created_at);

-- Devices (by their cxDevice cookie) and networks that an account signed in from.
create table known_devices (
    account_id text not null references accounts (id) on delete cascade,
    device_hash bytea not null,
    seen_at bigint not null,
    primary key (account_id, device_hash)
);
create table known_networks (
    account_id text not null references accounts (id) on delete cascade,
    network text not null,
    seen_at bigint not null,
    primary key (account_id, network)
);

create table outbox (
    id text primary key,            -- also the left part of the Message-ID
    kind text not null,
    recipient text not null,        -- canonical; emptied when nobody has it
    flow_id text,                   -- the reset or verification whose code the mail carries
    network text not null,
    caused_at bigint not null,
    due_at bigint not null,
    attempts bigint not null,
    claimed_by text,
    claimed_until bigint,
    sent_at bigint,
    dropped_at bigint,
    dead_at bigint,
    reason text                     -- why dropped, dead or retried
);
create index outbox_by_due on outbox (due_at, id) where sent_at is null and dropped_at is null and dead_at is null;
create index outbox_unsent on outbox (caused_at, dead_at) where sent_at is null and dropped_at is null;
create index outbox_by_age on outbox (caused_at);
create index outbox_by_flow on outbox (flow_id);
create index outbox_by_recipient on outbox (recipient);

create table audit (
    id text primary key,
    at bigint not null,
    event text not null,
    account_id text,
    actor text not null,            -- client | operator | system
    network text,
    request_id text,
    detail text
);
create index audit_by_account on audit (account_id, at);
create index audit_by_age on audit (at);
