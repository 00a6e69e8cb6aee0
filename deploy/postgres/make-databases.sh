#!/bin/sh
# Makes the roles and databases, each role the owner of its own and without access to the others'. The image runs it once.
set -eu
SECRETS=${SECRETS:-/run/secrets}
export SECRETS

owned() {
    ROLE=$1 psql -v ON_ERROR_STOP=1 -v role="$1" --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set password `cat "$SECRETS/postgres_$ROLE"`
create role :"role" login password :'password';
SQL
    role=$1
    shift
    for database in "$@"; do
        psql -v ON_ERROR_STOP=1 -v role="$role" -v database="$database" --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
create database :"database" owner :"role";
revoke all on database :"database" from public;
SQL
    done
}

owned temporal temporal temporal_visibility
owned uplift uplift
owned modules modules
