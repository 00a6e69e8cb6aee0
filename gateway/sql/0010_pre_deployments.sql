-- Versions that somebody had deployed by discovery: they are needed until the same call takes them away.
create table deployments (
    module text primary key references modules,
    node text not null,
    made timestamptz not null default now()
);
