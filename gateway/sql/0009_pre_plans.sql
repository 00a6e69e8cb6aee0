-- What was simulated, so that a request that names a plan can be told what has moved since; and what past changes were held for.
create table plans (
    tenant text not null references tenants on delete cascade,
    digest text not null,
    plan json not null,
    world json not null,                -- what it was made for: enabled modules and data versions
    made timestamptz not null default now(),
    primary key (tenant, digest)
);
create index plans_made on plans (made);

create table held_times (               -- a row for each change that was switched; the newest of each product are kept
    id bigint generated always as identity primary key,
    product text not null,
    kind text not null,
    version_from text,
    version_to text,
    together text not null,             -- names the changes that were held with it
    seconds double precision not null
);
create index held_times_product on held_times (product, id desc);
