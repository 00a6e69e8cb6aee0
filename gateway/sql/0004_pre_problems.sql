-- What an administrator should know, and what is to be delivered to others. `pre`: may be applied before the code that needs it.
create table problems (
    key text primary key,
    kind text not null,
    severity text not null check (severity in ('warning', 'error')),
    message text not null,
    remedy text not null,
    module text,                        -- module id, or the product of a hold
    tenant text,
    job text,
    since timestamptz not null,
    resolved_at timestamptz             -- null: it stands
);
create index problems_open on problems (kind) where resolved_at is null;

create table problem_looks (            -- one row: its lock makes one replica at a time look, its time keeps others from looking again
    single boolean primary key default true check (single),
    looked timestamptz not null default '-infinity'
);
insert into problem_looks default values;

create table outbox (                   -- a row is removed when it was delivered or its time is over
    id uuid primary key,                -- the idempotency id: the same for every attempt
    kind text not null check (kind in ('notify', 'push')),
    target text not null,               -- name of a notifier; URL of a push
    payload json not null,
    subject text not null,              -- what it is about: key of a problem, id of a hold
    created timestamptz not null default now(),
    due timestamptz not null default now(),
    attempts integer not null default 0,
    expires timestamptz,
    claimed_until timestamptz,          -- until then a gateway is delivering it; later that one is taken for dead
    last_error text
);
create index outbox_due on outbox (kind, due);
create index outbox_subject on outbox (subject);
