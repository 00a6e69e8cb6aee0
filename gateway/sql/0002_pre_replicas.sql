-- Any number of gateways on one database: what routing depends on is numbered, so that each replica can follow, and each is heard of.

create table routing (                  -- one row: the number of the last change, the oldest one that is still kept, the key of request ids
    single boolean primary key default true check (single),
    epoch bigint not null default 0,
    kept_from bigint not null default 0,
    key bytea not null default decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')
);
insert into routing default values;

create table changes (                  -- which row changed at which epoch; the row itself is read as it is now
    epoch bigint primary key,
    kind text not null,
    a text not null,
    b text not null,
    at timestamptz not null default now()
);

-- Called at commit: the lock on the counter is the last one that a transaction takes, so that epochs are committed in order and
-- nobody waits for anybody in a circle.
create function note_change() returns trigger language plpgsql as $$
declare
    touched jsonb := to_jsonb(coalesce(new, old));
    number bigint;
begin
    update routing set epoch = epoch + 1 returning epoch into number;
    insert into changes (epoch, kind, a, b)
        values (number, tg_argv[0], touched ->> tg_argv[1], coalesce(touched ->> tg_argv[2], ''));
    perform pg_notify('uplift_routing', '');
    return null;
end $$;

create constraint trigger note_change after insert or update or delete on modules
    deferrable initially deferred for each row execute function note_change('module', 'id', '');
create constraint trigger note_change after insert or update or delete on tenants
    deferrable initially deferred for each row execute function note_change('tenant', 'id', '');
create constraint trigger note_change after insert or update or delete on bindings
    deferrable initially deferred for each row execute function note_change('binding', 'tenant', 'product');
create constraint trigger note_change after insert or update or delete on instances
    deferrable initially deferred for each row execute function note_change('instance', 'id', '');
create constraint trigger note_change after insert or update or delete on retirements
    deferrable initially deferred for each row execute function note_change('retirement', 'module', '');
create constraint trigger note_change after insert or update or delete on holds
    deferrable initially deferred for each row execute function note_change('hold', 'tenant', 'product');
create constraint trigger note_change after insert or update or delete on overlays
    deferrable initially deferred for each row execute function note_change('overlay', 'token', '');

create function tell_job() returns trigger language plpgsql as $$
begin
    perform pg_notify('uplift_jobs', coalesce(new.id, old.id));
    return null;
end $$;
create trigger tell_job after insert or delete or update of state, abort_requested on jobs
    for each row execute function tell_job();

create table nodes (                    -- replicas and their leases
    name text primary key,
    generation text not null unique,    -- names the very process
    applied bigint not null default -1, -- the epoch that its routing table has reached
    loaded bigint,                      -- the epoch that it began with: what was gone by then, it never knew
    schema text not null default '',    -- the newest migration that its release knows: those after it wait for it to leave
    renewed timestamptz not null default now(),
    until timestamptz not null
);

create table ghosts (                   -- replicas that went without a word: what they had sent may be at work until then
    generation text primary key,
    name text not null,
    until timestamptz not null
);

create table quiet (                    -- a replica says that nothing of it is at work any more on a hold, a version, an overlay, an instance
    subject text not null,
    generation text not null,
    at timestamptz not null default now(),
    primary key (subject, generation)
);

alter table holds add column holder text;      -- who may open it: `job <id>`, `module <instance>`, `operator <name>`
update holds set holder = 'job ' || job;
alter table holds alter column holder set not null;
alter table holds add column grace double precision not null default 10;
alter table holds add column origin text not null default '';

create table opened_holds (             -- so that a RESUME whose answer was lost can be sent again
    id text primary key,
    holder text not null,
    at timestamptz not null default now()
);

alter table tenants add column routing text not null default 'pinned' check (routing in ('pinned', 'newest'));
alter table instances add column seen timestamptz;          -- when it last said that it is well (SEEN)
alter table instances add column announced boolean not null default true;  -- false: NEWER has not been looked at yet
create index instances_unannounced on instances (registered) where not announced;

alter table overlays drop constraint overlays_state_check;
alter table overlays add constraint overlays_state_check check (state in ('open', 'alias', 'closing'));
