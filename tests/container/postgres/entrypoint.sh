#!/usr/bin/env bash
# Makes the cluster, its user and its database at the first start, as the official image does, then serves.
set -euo pipefail
password=$(cat "$POSTGRES_PASSWORD_FILE")
as_postgres() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
install -d -o postgres -g postgres -m 700 "$PGDATA"
install -d -o postgres -g postgres -m 775 /var/run/postgresql
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    file=$(mktemp)
    printf %s "$password" >"$file"
    chown postgres "$file"
    as_postgres initdb --auth=scram-sha-256 --username="$POSTGRES_USER" --pwfile="$file" >/dev/null
    rm "$file"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    as_postgres pg_ctl -w -o "-c listen_addresses=" start >/dev/null
    PGPASSWORD=$password as_postgres createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
    as_postgres pg_ctl -w -m fast stop >/dev/null
fi
exec setpriv --reuid postgres --regid postgres --init-groups postgres -c "listen_addresses=*"
