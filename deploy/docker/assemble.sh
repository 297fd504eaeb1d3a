#!/bin/sh
# Puts the built server and what it needs to run into a folder: sh deploy/docker/assemble.sh <folder>
set -eu
folder=${1:?name the folder}
cd "$(dirname "$0")/../.."
mkdir -p "$folder"
cp -R package.json package-lock.json .npmrc dist public "$folder"
cp deploy/docker/healthcheck.js deploy/prepare-database.sh "$folder"
rm -rf "$folder/dist/test"
cd "$folder"
# The server brings Fastify itself, in the version of the lock file; where the package is a plugin, the host does. It brings
# the client of NATS (PGWS_BUS), too.
for name in fastify @nats-io/transport-node; do
  npm pkg set "dependencies.$name=$(npm pkg get "devDependencies.$name" | tr -d '"')"
done
npm pkg delete devDependencies scripts
npm install --omit=dev --omit=optional --ignore-scripts --prefer-offline --silent
