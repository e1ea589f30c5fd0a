# Starts PostgreSQL; makes the database cluster first if the volume is empty.
# Needs: POSTGRES_USER, POSTGRES_DB, and a file with the password at /etc/database/password.
set -eu
cluster=$PGDATA/17
if [ ! -s "$cluster/PG_VERSION" ]; then
  # Made beside its place: a start that was cut off leaves nothing half-made behind.
  rm -rf "$cluster.new"
  initdb --pgdata "$cluster.new" --username "$POSTGRES_USER" --pwfile /etc/database/password \
    --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8 --no-sync >/dev/null
  printf "host all all all scram-sha-256\n" >> "$cluster.new/pg_hba.conf"
  echo "CREATE DATABASE \"$POSTGRES_DB\";" | postgres --single -j -D "$cluster.new" postgres >/dev/null
  sync
  mv "$cluster.new" "$cluster"
fi
exec postgres -D "$cluster" -c listen_addresses='*' -c unix_socket_directories=/tmp -c max_connections=200 \
  -c shared_buffers=64MB -c jit=off
