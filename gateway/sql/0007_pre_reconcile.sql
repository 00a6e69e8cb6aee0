-- Reconcile runs: what was asked for, what the last one found, and the nodes that are to be looked at.
create table reconcile (                -- one row
    single boolean primary key default true check (single),
    request text,                       -- asked for and not reported yet
    repair boolean not null default false,
    since timestamptz,
    started boolean not null default false, -- whether its run is at Temporal
    report json,                        -- the last one
    reported timestamptz
);
insert into reconcile default values;

create table workers (                  -- nodes on which a worker was heard of
    node text primary key,
    seen timestamptz not null default now()
);
