import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import t, { type Test } from 'tap'
import { examine } from '../../commands/doctor/index.js'
import { freePort } from '../support/app.js'
import { command } from '../support/command.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { guardedRole } from '../support/guarded-role.js'
import { install, query } from '../support/helper.js'
import { createDatabase, testPostgres } from '../support/postgres.js'

// Roles with passwords and limits belong to the whole cluster.
const postgres = await testPostgres(t)
const socket = join(postgres.socketFolder, '.s.PGSQL.5432')
const SECRET = 'geheim-geheim-geheim-geheim-geheim'
const base = { PGWS_JWT_SECRET: SECRET }

/** Never appears in the output. */
const HIDDEN = /geheim/

/** A database with the schema, and the connection string of a role with the needed grants. */
async function prepared(role: string, grant = true): Promise<{ owner: string; uri: string }> {
  const owner = await createDatabase(postgres)
  await install(owner)
  await query(owner, `create role ${role} login password 'geheim'`)
  if (grant) await query(owner, `grant pgws_server to ${role}`)
  return { owner, uri: owner.replace('postgres@', `${role}:geheim@`) }
}

/** Runs the command in this process. Returns its output. */
async function examined(
  environment: Record<string, string>
): Promise<{ code: number | null; output: string }> {
  const out = new PassThrough({ encoding: 'utf8' })
  const well = await examine(environment, out)
  return { code: well ? 0 : 1, output: String(out.read()) }
}

/** Runs the doctor. Returns its lines by check, and its exit code. */
async function doctor(t: Test, environment: Record<string, string>, ask = examined) {
  const { code, output } = await ask({ ...base, ...environment })
  t.notMatch(output, HIDDEN)
  t.comment(output)
  const lines = output.split('\n').filter((line) => /^(OK|warning|error) /.test(line))
  const levels = (level: string) =>
    lines.filter((line) => line.startsWith(level)).map((line) => line.slice(9).replace(/ +/, ': '))
  return { code, output, warnings: levels('warning'), errors: levels('error'), lines }
}

/** Runs the command in a process of its own. */
const asCommand = (t: Test) => (environment: Record<string, string>) => command(t, ['doctor'], environment)

/** Expects exactly one error, and the exit code 1. */
async function hasError(t: Test, environment: Record<string, string>, expected: RegExp) {
  const { code, errors, output } = await doctor(t, environment)
  t.equal(errors.length, 1, output)
  t.match(errors[0], expected)
  t.equal(code, 1)
}

/** Expects one warning, no error, and the exit code 0. */
async function hasWarning(t: Test, environment: Record<string, string>, expected: RegExp, ask = examined) {
  const { code, errors, warnings, output } = await doctor(t, environment, ask)
  t.same(errors, [], output)
  t.equal(warnings.length, 1, output)
  t.match(warnings[0], expected)
  t.equal(code, 0)
}

t.test('each check prints OK if nothing is wrong', async (t) => {
  const { uri } = await prepared('well')
  const { code, output, lines } = await doctor(t, { PGWS_DB_URI: uri }, asCommand(t))
  t.equal(code, 0)
  t.match(output, /\nall is well\n$/)
  const checks = ['configuration', 'keys', 'connection', 'version', 'pooler', 'listen', 'schema', 'role']
  for (const check of [...checks, 'connections', 'clock']) {
    t.ok(
      lines.some((line) => new RegExp(`^OK +${check} `).test(line)),
      check
    )
  }
  t.match(output, /listen +a notification has come back in \d+ ms/)
})

t.test('reports each invalid variable', async (t) => {
  const { uri } = await prepared('configured')
  await hasError(t, { PGWS_DB_URI: uri, PGWS_POOL_SIZE: 'many' }, /PGWS_POOL_SIZE must be a whole number/)
  await hasError(t, { PGWS_DB_URI: uri, PGWS_DEFAULT_MODE: 'x' }, /PGWS_DEFAULT_MODE\) must be r, w or rw/)
  await hasError(
    t,
    { PGWS_DB_URI: uri, PGWS_JWT_SECRET: '' },
    /PGWS_JWT_SECRET \(or PGWS_JWKS_URL\) is required/
  )
  await hasWarning(t, { PGWS_DB_URI: uri, PGWS_OF_A_NEWER_VERSION: 'geheim' }, /PGWS_OF_A_NEWER_VERSION/)
})

t.test('reports a wrong port, password or database, and a server that does not answer', async (t) => {
  const { owner, uri } = await prepared('connecting')
  const proxy = await FaultProxy.start(t, socket)
  const over = (port: number) => `postgresql://connecting:geheim@127.0.0.1:${port}/none`
  await hasError(
    t,
    { PGWS_DB_URI: over(await freePort()) },
    /connection: PGWS_DB_URI: .*nothing listens there: check host and port/
  )
  await hasError(t, { PGWS_DB_URI: over(proxy.port) }, /database "none" does not exist; check the name/)
  await hasError(t, { PGWS_DB_URI: 'mysql://root:geheim@localhost/x' }, /PGWS_DB_URI: expected a URI/)
  await hasError(
    t,
    { PGWS_DB_URI: uri, PGWS_LISTENER_URI: over(await freePort()) },
    /connection: PGWS_LISTENER_URI: /
  )
  await guardedRole(postgres, 'guarded')
  const guarded = owner.replace('postgres@', 'guarded:geheim@')
  await hasError(
    t,
    { PGWS_DB_URI: guarded },
    /password authentication failed for user "guarded"; check the password/
  )
  await hasError(
    t,
    { PGWS_DB_URI: owner.replace('postgres@', 'nobody@') },
    /role "nobody" does not exist; check the user, and pg_hba/
  )
  proxy.mode = 'silence'
  await hasError(
    t,
    { PGWS_DB_URI: `${proxy.uri(owner)}?connect_timeout=1` },
    /did not answer in time: check host, port and firewall/
  )
})

t.test('reports a role with missing grants, too many rights, few connections, or read-only', async (t) => {
  const bare = await prepared('bare', false)
  await hasError(
    t,
    { PGWS_DB_URI: bare.uri },
    /role: the role "bare" lacks .*: run "grant pgws_server to "bare""/
  )
  await hasWarning(t, { PGWS_DB_URI: bare.owner }, /role: the role "postgres" is a superuser/)
  const few = await prepared('few')
  await query(few.owner, 'alter role few connection limit 3')
  await hasWarning(t, { PGWS_DB_URI: few.uri }, /connections: each server opens up to 12 .* allows 3: raise/)
  const readers = await prepared('readers')
  await query(readers.owner, 'alter role readers set default_transaction_read_only = on')
  await hasWarning(t, { PGWS_DB_URI: readers.uri }, /role: the sessions of "readers" are read-only/)
})

t.test('reports a schema that is missing, too old, too new, or has another listen channel', async (t) => {
  const dbUri = await createDatabase(postgres)
  await query(dbUri, 'create role stranger login')
  const stranger = dbUri.replace('postgres@', 'stranger@')
  await hasWarning(
    t,
    { PGWS_DB_URI: stranger },
    /schema: the schema "pgws" is not installed: .*Run: npx fastify-pg-websockets migrate/
  )
  await hasError(
    t,
    { PGWS_DB_URI: stranger, PGWS_MIGRATE: 'true' },
    /"stranger" may not install it at the start/
  )
  const { owner, uri } = await prepared('versions')
  await hasWarning(t, { PGWS_DB_URI: uri, PGWS_LISTEN_CHANNEL: 'other' }, /PGWS_LISTEN_CHANNEL/)
  await query(owner, 'delete from pgws.migrations where number = (select max(number) from pgws.migrations)')
  await hasError(
    t,
    { PGWS_DB_URI: uri },
    /schema: .* needs version \d+: run "npx fastify-pg-websockets migrate"/
  )
  await query(owner, 'update pgws.settings set version = 999')
  await hasError(t, { PGWS_DB_URI: uri }, /schema: .*supports versions up to \d+: upgrade/)
})

t.test('reports SQL functions that do not exist', async (t) => {
  const { uri } = await prepared('caller')
  await hasError(
    t,
    { PGWS_DB_URI: uri, PGWS_AUTHORIZE_FUNCTION: 'app.allowed' },
    /functions: The database has no function app\.allowed/
  )
})

t.test('reports a listener that is connected to another database, or cannot listen', async (t) => {
  const { uri } = await prepared('one')
  const other = await createDatabase(postgres)
  await hasError(
    t,
    { PGWS_DB_URI: uri, PGWS_LISTENER_URI: other },
    /listen: no notification has come back .* must lead to the same database/
  )
})

t.test('reports keys that are too short or private, and what is not a JWK set', async (t) => {
  const { uri } = await prepared('keyed')
  await hasWarning(
    t,
    { PGWS_DB_URI: uri, PGWS_JWT_SECRET: 'geheim' },
    /keys: PGWS_JWT_SECRET has fewer than 32 bytes.*openssl rand -hex 32/
  )
  const pem = '-----BEGIN PRIVATE KEY-----\ngeheim\n-----END PRIVATE KEY-----'
  await hasError(t, { PGWS_DB_URI: uri, PGWS_JWT_SECRET: pem }, /contains a private key: set the public key/)
  let answer = '{"keys": []}'
  const provider = createServer((_request, response) =>
    response.setHeader('content-type', 'application/json').end(answer)
  ).listen(0, '127.0.0.1')
  await once(provider, 'listening')
  t.teardown(() => provider.close())
  const { port } = provider.address() as AddressInfo
  const jwks = (at: number) => ({ PGWS_DB_URI: uri, PGWS_JWKS_URL: `http://127.0.0.1:${at}/jwks?key=geheim` })
  await hasError(
    t,
    jwks(port),
    /keys: PGWS_JWKS_URL \(http:\/\/127\.0\.0\.1:\d+\/jwks\): could not fetch the JWK set: option "jwksUrl" \(PGWS_JWKS_URL\) is .*it must answer with a JWK set/
  )
  await hasError(t, jwks(await freePort()), /keys: PGWS_JWKS_URL/)
  const jwk = { kty: 'OKP', crv: 'Ed25519', x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo' }
  answer = JSON.stringify({ keys: [jwk] })
  t.match(await doctor(t, jwks(port)), { code: 0, output: /OK +keys +PGWS_JWKS_URL .*1 key \(EdDSA\)/ })
})

t.test('reports a wrong clock', async (t) => {
  const { uri } = await prepared('late')
  const shifted = (seconds: number) =>
    `--import=data:text/javascript,${encodeURIComponent(`const { now } = Date; Date.now = () => now() + ${seconds * 1000}`)}`
  await hasWarning(
    t,
    { PGWS_DB_URI: uri, NODE_OPTIONS: shifted(600) },
    /clock: .* \d+ s ahead of the database's: synchronize/,
    asCommand(t)
  )
  await hasWarning(
    t,
    { PGWS_DB_URI: uri, NODE_OPTIONS: shifted(-600) },
    /clock: .* \d+ s behind the database's/,
    asCommand(t)
  )
})

t.test('without a configured database, checks the embedded one while it runs', async (t) => {
  await hasWarning(
    t,
    { PGWS_JWT_SECRET: '', PGWS_EMBEDDED_FOLDER: join(tmpdir(), 'pgws-none') },
    /the embedded database is not running: start the server/
  )
})
