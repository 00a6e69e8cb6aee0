-- What a lost run left held is settled by a new run of the same job, after a person's decision.
alter table jobs add column run text;            -- workflow id of the run that works on it now; null: the job's id
alter table jobs add column resolution json;     -- the decision that this run carries out
alter table holds add column left_behind boolean not null default false;  -- its job goes on, but the run that would open it is gone
