#!/bin/sh
# Installs the server for systemd, as root: sh deploy/systemd/install.sh
# PACKAGE: what npm installs. Default: fastify-pg-websockets from the registry. DESTDIR: a folder to install below, for tests.
set -eu
destination=${DESTDIR:-}
folder=$destination/opt/fastify-pg-websockets
environment=$destination/etc/fastify-pg-websockets.env
units=$destination/etc/systemd/system

mkdir -p "$folder" "$units"
npm install --prefix "$folder" --silent --prefer-offline --ignore-scripts "${PACKAGE:-fastify-pg-websockets}" fastify@5
# The configuration holds secrets. An existing one stays as it is.
if [ ! -e "$environment" ]; then
  (
    umask 077
    cat >"$environment" <<END
# docs/options.md lists all variables.
PGWS_DB_URI=postgresql://websockets:change-me@localhost/app
PGWS_JWT_SECRET=$(node -p "require('node:crypto').randomBytes(32).toString('hex')")
PGWS_CHECK_LISTENER_INTERVAL=10000
END
  )
fi
install -m 644 "$(dirname "$0")/fastify-pg-websockets.service" "$units"
[ -n "$destination" ] || systemctl daemon-reload
echo "Set PGWS_DB_URI in $environment, and run: systemctl enable --now fastify-pg-websockets"
