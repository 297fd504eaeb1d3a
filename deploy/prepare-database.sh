#!/bin/sh
# Installs the schema, and creates the server's role "websockets". It may run again, and sets the password again.
# PGWS_DB_URI: the database, as a role that may create schemas and roles. WEBSOCKETS_PASSWORD: the password of the role.
# Its arguments are the command; without them: node dist/cli.js
set -eu
: "${PGWS_DB_URI:?is not set}"
case ${WEBSOCKETS_PASSWORD:?is not set} in
*[!A-Za-z0-9_-]*)
  echo 'WEBSOCKETS_PASSWORD must have letters, digits, _ and - only, because it is part of a URI: openssl rand -hex 32' >&2
  exit 1
  ;;
esac
[ $# -gt 0 ] || set -- node dist/cli.js
"$@" migrate
"$@" sql "do \$\$ begin if to_regrole('websockets') is null then create role websockets login; end if; end \$\$"
"$@" sql "alter role websockets password '$WEBSOCKETS_PASSWORD'"
"$@" sql "grant pgws_server to websockets"
# The channel of the sample page.
"$@" sql "select pgws.retain('chat', '1 day', 1000) where pgws.max_age('chat') is null"
