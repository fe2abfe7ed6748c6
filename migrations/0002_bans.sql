-- Client networks that are kept out for a while, and those that were, as long as that still counts (guard.bans.forget_after).
create table bans (
    network text primary key,       -- IPv4 address or IPv6 /64
    kind text not null,             -- ban | slow
    times bigint not null,          -- the so many-th in a row: what its length was taken from
    why text not null,              -- the guard's rule that denied last, or `operator`
    began_at bigint not null,
    until_at bigint not null
);
create index bans_by_end on bans (until_at, network);

-- Whether somebody signed in from a network lately.
create index known_networks_by_network on known_networks (network, seen_at);
-- Whether anybody knows a device, also asked for the banned.
create index known_devices_by_device on known_devices (device_hash);
