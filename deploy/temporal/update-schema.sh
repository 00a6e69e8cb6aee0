#!/bin/sh
# Brings both of Temporal's databases to the schema of this version of the tools. Again is fine.
set -eu
SQL_PASSWORD=$(cat "${PASSWORD_FILE:?}")
export SQL_PASSWORD

for part in temporal visibility; do
    case $part in
        temporal) database=temporal ;;
        visibility) database=temporal_visibility ;;
    esac
    tool() { temporal-sql-tool --plugin postgres12 --ep "${POSTGRES_HOST:?}" -p 5432 -u "${POSTGRES_USER:?}" --db "$database" "$@"; }
    tool setup-schema -v 0.0
    tool update-schema -d "/etc/temporal/schema/postgresql/v12/$part/versioned"
done
