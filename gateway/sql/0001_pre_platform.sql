-- The platform as the gateway knows it. `pre`: may be applied before the code that needs it runs everywhere.
create table modules (
    id text primary key,
    product text not null,
    descriptor text not null,           -- the JSON as it was sent: it comes back unchanged
    registered timestamptz not null default now()
);
create index modules_product on modules (product);

create table tenants (
    id text primary key,
    name text,
    description text
);

create table bindings (                 -- tenant has version enabled
    tenant text not null references tenants on delete cascade,
    product text not null,
    module text not null references modules,
    primary key (tenant, product)
);
create index bindings_module on bindings (module);

create table data_versions (            -- the version that a tenant's data is at; survives disable, cleared by purge
    tenant text not null,
    product text not null,
    module text not null,
    primary key (tenant, product)
);

create table instances (
    id text primary key,
    module text not null references modules,
    url text not null,
    node text,                          -- the node that deployed it; null: registered by the site
    generation text,                    -- names the very process
    descriptor json,                    -- launch descriptor it was registered with
    registered timestamptz not null default now()
);
create index instances_module on instances (module);

create table retirements (              -- module versions on their way out; claiming one conflicts
    module text primary key references modules on delete cascade,
    since timestamptz not null default now()
);

create table jobs (
    id text primary key,
    position bigint generated always as identity,
    tenant text not null references tenants on delete cascade,
    request json not null,
    plan json,
    modules json not null,
    state text not null check (state in ('queued', 'active', 'ended')),
    started boolean not null default false,
    abort_requested boolean not null default false,
    status text not null default 'running' check (status in ('running', 'done', 'error')),
    outcome text,
    phase text not null default 'queued',
    errors json not null default '[]',
    warnings json not null default '[]',
    held_seconds double precision not null default 0,
    start_date timestamptz not null default now(),
    end_date timestamptz
);
create unique index jobs_one_running_per_tenant on jobs (tenant) where state = 'active';
create index jobs_open on jobs (state) where state <> 'ended';

create table holds (
    id text primary key,
    job text references jobs,
    tenant text not null,
    product text not null,
    state text not null check (state in ('DRAINING', 'HELD')),
    reason text not null,
    since timestamptz not null default now(),
    until timestamptz,
    unique (tenant, product)
);

create table claims (                   -- who needs an instance of which version
    module text not null references modules,
    job text not null,
    since timestamptz not null default now(),
    primary key (module, job)
);

create table intents (                  -- precedes each tenant init: an attempt that finds one starts in `unknown`
    key text primary key,
    job text not null,
    tenant text not null,
    product text not null,
    module text not null,
    instance text not null,
    generation text,
    state text not null check (state in ('asked', 'following', 'ended')),
    job_path text,
    asked integer not null default 1,
    answer json,
    since timestamptz not null default now(),
    ended timestamptz
);
create unique index intents_one_at_a_time on intents (tenant, product) where state <> 'ended';

create table overlays (
    token text primary key,
    job text not null,
    tenant text not null,
    product text not null,
    module text not null,
    state text not null check (state in ('open', 'alias')),
    unique (job, product)
);

create table snapshots (
    id text primary key,
    job text not null,
    tenant text not null,
    product text not null,
    module text,                        -- the version that the copied data is at; null: there was none
    node text not null,
    dsn text not null,                  -- by reference
    schema text not null,
    path text not null,
    size bigint not null,
    digest text not null,
    existed boolean not null,
    taken timestamptz not null default now(),
    expires timestamptz                 -- null while its change runs
);

create table environment (
    name text primary key,
    value text not null,
    description text
);

create table gateway_state (            -- one row: whether the last gateway stopped with nothing in flight
    single boolean primary key default true check (single),
    clean boolean not null
);
insert into gateway_state (clean) values (true);
insert into tenants (id, name, description) values ('supertenant', 'supertenant', 'Okapi built-in super tenant');
