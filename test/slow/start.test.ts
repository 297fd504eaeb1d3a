import { join } from 'node:path'
import t, { type Test } from 'tap'
import { refused, run, serve } from '../support/app.js'
import { FaultProxy } from '../support/fault-proxy.js'
import { guardedRole } from '../support/guarded-role.js'
import { build, install, query, SECRET, token, until } from '../support/helper.js'
import { createDatabase, testPostgres } from '../support/postgres.js'

const postgres = await testPostgres(t)
const socket = join(postgres.socketFolder, '.s.PGSQL.5432')
const secret = { PGWS_JWT_SECRET: SECRET }
const supervised = { PGWS_CHECK_LISTENER_INTERVAL: '300' }
const supervision: Record<string, string>[] = [{}, supervised]

const as = (dbUri: string, user: string) => dbUri.replace(/postgres(:[^@]*)?@/, `${user}@`)

function saidOnce(t: Test, output: string, text: string): void {
  t.equal(output.split(text).length - 1, 1, `"${text}" once in ${output}`)
  t.notMatch(output, /trying again|uncaught/)
}

/** Checks that the start fails, also for the server in this process, without the command. */
async function isRefused(t: Test, environment: Record<string, string>, text: string): Promise<void> {
  saidOnce(t, await refused(t, { ...secret, ...environment }), text)
}

async function endsWith(t: Test, environment: Record<string, string>, text: string): Promise<void> {
  const app = await run(t, { ...secret, ...environment })
  t.equal(await app.exit, 1)
  saidOnce(t, app.output(), text)
}

t.test('a wrong password, role or database ends the start at once, with one error', async (t) => {
  const dbUri = await createDatabase(postgres)
  await guardedRole(postgres, 'guarded')
  const wrong = as(dbUri, 'guarded:wrong')
  const wrongPassword = 'password authentication failed'
  await endsWith(t, { PGWS_DB_URI: wrong }, wrongPassword)
  for (const mode of supervision) {
    await endsWith(t, { PGWS_DB_URI: wrong, PGWS_LISTENER_URI: dbUri, ...mode }, wrongPassword)
    await isRefused(t, { PGWS_DB_URI: dbUri, PGWS_LISTENER_URI: wrong, ...mode }, wrongPassword)
  }
  await isRefused(t, { PGWS_DB_URI: as(dbUri, 'nobody'), ...supervised }, 'role "nobody" does not exist')
  const none = dbUri.replace(/test_\w+/, 'nowhere')
  await isRefused(t, { PGWS_DB_URI: none, ...supervised }, 'database "nowhere" does not exist')
})

t.test('without pgws_server, the start fails with an error that says what to grant', async (t) => {
  const dbUri = await createDatabase(postgres)
  await query(dbUri, 'create role "the Server" login')
  const environment = { PGWS_DB_URI: as(dbUri, 'the%20Server'), ...secret }
  // Without the schema, no grant is needed.
  const bare = await serve(t, environment)
  await bare.close()
  await isRefused(
    t,
    { ...environment, PGWS_MIGRATE: 'true' },
    'this role may not install or upgrade the schema "pgws"'
  )
  const migrated = await run(t, { PGWS_DB_URI: dbUri }, ['migrate'])
  t.equal(await migrated.exit, 0, migrated.output())
  for (const mode of supervision) {
    await isRefused(t, { ...environment, ...mode }, 'grant pgws_server to "the Server"')
  }
  await query(dbUri, 'grant pgws_server to "the Server"')
  const app = await serve(t, { ...environment, PGWS_CHECK_LISTENER_INTERVAL: '300' })
  const publish = async () => {
    const { status } = await fetch(`${app.http}/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token({ mode: 'w' })}`, 'content-type': 'application/json' },
      body: '{"channel":"a","payload":1}'
    })
    return status
  }
  const health = async () => (await fetch(`${app.http}/health`)).json()
  t.equal(await publish(), 202)
  t.match(await health(), { status: 'ok', pool: { status: 'up' } })
  await query(dbUri, 'revoke pgws_server from "the Server"')
  t.equal(await publish(), 503)
  t.match(await health(), { status: 'unavailable', pool: { status: 'forbidden' } })
  t.notMatch(JSON.stringify(await health()), /Server/)
  await query(dbUri, 'grant pgws_server to "the Server"')
  t.equal(await publish(), 202)
  t.match(await health(), { status: 'ok', pool: { status: 'up' } })
})

t.test('GET /health shows a grant that is revoked after the start, and recovers with it', async (t) => {
  const dbUri = await createDatabase(postgres)
  await query(dbUri, 'create role late_server login')
  await install(dbUri)
  const proxy = await FaultProxy.start(t, socket)
  proxy.mode = 'refuse'
  const { fastify, lines } = await build(t, {
    dbUri: as(proxy.uri(dbUri), 'late_server'),
    checkListenerInterval: 300,
    readyTimeout: 100
  })
  proxy.mode = 'pass'
  await until(() => lines.some((line) => line.includes('grant pgws_server to \\"late_server\\"')), 20_000)
  t.match(await fastify.pgws.health(), { status: 'unavailable', pool: { status: 'forbidden' } })
  await query(dbUri, 'grant pgws_server to late_server')
  await until(async () => (await fastify.pgws.health()).status === 'ok')
  await fastify.pgws.publish('a', 1)
})

for (const mode of supervision) {
  const title = mode.PGWS_CHECK_LISTENER_INTERVAL ? 'supervised' : 'unsupervised'
  t.test(`${title}: logs what the start waits for, and SIGTERM ends it in order`, async (t) => {
    const dbUri = await createDatabase(postgres)
    const pool = await FaultProxy.start(t, socket)
    pool.mode = 'refuse'
    const environment = { ...secret, PGWS_LISTENER_URI: dbUri, PGWS_DB_URI: pool.uri(dbUri), ...mode }
    const app = await run(t, environment)
    await until(() =>
      /startup is waiting for the publishing connections \(connection to 127\.0\.0\.1:\d+ failed/.test(
        app.output()
      )
    )
    // Another reason is logged, too. The same one is not logged again.
    pool.mode = 'silence'
    await until(
      () => /startup is waiting for the publishing connections \(.*timeout/.test(app.output()),
      20_000
    )
    const reasons = app.output().match(/startup is waiting for [^"]*/g)!
    t.same(
      reasons.filter((reason, i) => reason === reasons[i - 1]),
      []
    )
    app.child.kill('SIGTERM')
    t.equal(await app.exit, 0)
    t.notMatch(app.output(), /could not (end|start)|uncaught/)
    pool.mode = 'pass'
    const again = await serve(t, environment)
    t.equal((await fetch(`${again.http}/health`)).status, 200)
  })

  t.test(`${title}: SIGTERM ends the start between two attempts, and during one that hangs`, async (t) => {
    const dbUri = await createDatabase(postgres)
    for (const fault of ['refuse', 'silence'] as const) {
      const proxy = await FaultProxy.start(t, socket)
      proxy.mode = fault
      const app = await run(t, {
        ...secret,
        PGWS_DB_URI: proxy.uri(dbUri),
        PGWS_READY_TIMEOUT: '60000',
        ...mode
      })
      await until(() => app.output().includes('startup is waiting for'))
      if (fault === 'refuse') await until(() => app.output().includes('trying again'))
      app.child.kill('SIGTERM')
      t.equal(await app.exit, 0)
      t.notMatch(app.output(), /could not (end|start)|uncaught/)
    }
  })
}

t.test('migrate says which roles and grants are missing, and adds them when it has the rights', async (t) => {
  const own = await testPostgres(t)
  const dbUri = await createDatabase(own)
  await query(
    dbUri,
    `create role modest login; do $$ begin execute format('grant create on database %I to modest', current_database()); end $$`
  )
  // Roles belong to the whole cluster, so none of other tests must be left. No secret is needed.
  const migrate = async () => {
    const app = await run(t, { PGWS_DB_URI: as(dbUri, 'modest') }, ['migrate'])
    t.equal(await app.exit, 0, app.output())
    return app.output()
  }
  const first = await migrate()
  t.match(first, /Installed version \d+/)
  for (const role of ['pgws_publisher', 'pgws_server']) {
    t.match(first, new RegExp(`^  create role ${role} nologin;$`, 'm'))
    t.match(first, new RegExp(`^  grant execute on function pgws\\..* to ${role};$`, 'm'))
  }
  await query(dbUri, 'create role pgws_publisher nologin; create role pgws_server nologin')
  const second = await migrate()
  t.match(second, /The schema is up to date/)
  t.notMatch(second, /create role|grant/)
  const acl = async (uri: string) => {
    const { rows } = await query(
      uri,
      `select object, grantee::regrole::text as role, privilege_type as privilege from (
         select proname::text as object, proacl as acl from pg_proc where pronamespace = 'pgws'::regnamespace
         union all select relname, relacl from pg_class where relnamespace = 'pgws'::regnamespace
       ) o, aclexplode(acl) where grantee::regrole::text like 'pgws\\_%' order by 1, 2, 3`
    )
    return rows
  }
  // Exactly what a migration by a role with CREATEROLE grants.
  const reference = await createDatabase(own)
  const app = await run(t, { PGWS_DB_URI: reference }, ['migrate'])
  t.equal(await app.exit, 0)
  t.notMatch(app.output(), /grant/)
  t.same(await acl(dbUri), await acl(reference))
})

t.test('sql works with a server without TLS', async (t) => {
  const proxy = await FaultProxy.start(t, socket)
  const app = await run(t, { PGWS_DB_URI: proxy.uri(await createDatabase(postgres)) }, [
    'sql',
    'select 1 as one'
  ])
  t.equal(await app.exit, 0, app.output())
  t.match(app.output(), /one\n-+\n 1\n\(1 row\)/)
})
