#!/bin/sh
# Makes the secrets that docker-compose.yml names: `deploy/make-secrets.sh FOLDER`. What is there stays as it is.
set -eu
folder=${1:?usage: deploy/make-secrets.sh FOLDER}

mkdir -p "$folder"
# The folder is closed to other users; the files are not, since the users inside the containers have other numbers.
chmod 0700 "$folder"

keep() {
    if [ ! -e "$folder/$1" ]; then
        cat >"$folder/$1.new"
        chmod 0444 "$folder/$1.new"
        mv "$folder/$1.new" "$folder/$1"
        echo "made $folder/$1"
    fi
}

for name in postgres_superuser postgres_temporal postgres_uplift postgres_modules gateway_token; do
    od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n' | keep "$name"
done
for role in uplift modules; do
    printf 'postgresql://%s:%s@postgres:5432/%s' "$role" "$(cat "$folder/postgres_$role")" "$role" | keep "dsn_$role"
done
