-- Secrets that deployed instances sign their signals with; only digests are kept.
create table instance_secrets (
    instance text primary key,
    module text not null references modules on delete cascade,
    hash bytea not null,                -- SHA-256 of 32 random bytes
    issued timestamptz not null default now()
);
create unique index instance_secrets_hash on instance_secrets (hash);
