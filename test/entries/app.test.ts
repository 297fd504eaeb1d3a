import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { CLI, freePort, refresh, refused, run, serve, started } from '../support/app.js'
import {
  notify,
  open,
  query,
  refusal,
  SECRET,
  sqlListener,
  token,
  until,
  withPostgres
} from '../support/helper.js'
import { root } from '../support/root.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const rw = token({ mode: 'rw' })
const base = { PGWS_DB_URI: dbUri, PGWS_JWT_SECRET: SECRET }

t.test(
  'row 34: needs only the database and the secret; other variables have the defaults of postgres-websockets',
  async (t) => {
    const app = await started(await run(t, { ...base, PGWS_META_CHANNEL: '', PGWS_POOL_SIZE: ' ' }))
    const client = await open(t, `${app.ws}/a/${rw}`)
    await notify(dbUri, '{"channel":"a"}', 'postgres-websockets-listener')
    t.same(await client.received(1), ['{"channel":"a"}'])
  }
)

t.test('row 4: a request without an upgrade gets files from PGWS_ROOT_PATH, or 404', async (t) => {
  const root = t.testdir({ 'index.html': '<p>the page</p>', 'health.txt': 'file' })
  const served = await serve(t, { ...base, PGWS_ROOT_PATH: root })
  t.equal(await (await fetch(`${served.http}/`)).text(), '<p>the page</p>')
  t.equal(await (await fetch(`${served.http}/health.txt`)).text(), 'file')
  t.equal((await fetch(`${served.http}/missing`)).status, 404)
  t.equal((await fetch(`${served.http}/%2e%2e/%2e%2e/etc/passwd`)).status, 404)
  t.equal((await fetch(`${served.http}/index.html`, { method: 'POST' })).status, 404)
  await open(t, `${served.ws}/index.html/${rw}`)
  const bare = await serve(t, base)
  t.equal((await fetch(`${bare.http}/`)).status, 404)
  t.equal((await refresh(bare.http, rw)).status, 404)
  t.equal((await refresh(served.http, rw)).status, 404)
  const answer = await (await fetch(`${bare.http}/chat/${rw}`)).text()
  t.notMatch(answer + bare.output(), rw.split('.')[2]!)
  t.notMatch(await (await fetch(`${bare.http}/%zz/${rw}`)).text(), rw.split('.')[2]!)
})

t.test('row 5: TLS needs a certificate and a key; one alone is an error that names both', async (t) => {
  const file = (name: string) => join(root, 'test/fixtures', name)
  const app = await serve(t, {
    ...base,
    PGWS_CERTIFICATE_FILE: file('certificate.pem'),
    PGWS_KEY_FILE: file('key.pem')
  })
  const client = await open(t, `wss://127.0.0.1:${app.port}/a/${rw}`, { rejectUnauthorized: false })
  await notify(dbUri, '{"channel":"a"}')
  await client.received(1)
  client.webSocket.ping()
  await once(client.webSocket, 'pong')
  const half = await refused(t, { ...base, PGWS_KEY_FILE: file('key.pem') })
  t.match(half, /PGWS_CERTIFICATE_FILE and PGWS_KEY_FILE belong together/)
  const missing = await refused(t, { ...base, PGWS_CERTIFICATE_FILE: '/none', PGWS_KEY_FILE: '/none' })
  t.match(missing, /PGWS_CERTIFICATE_FILE names a file that cannot be read/)
})

t.test('a start that cannot succeed ends with an error that names the variable', async (t) => {
  const file = (name: string) => join(root, `test/fixtures/${name}`)
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const { port } = taken.address() as AddressInfo
  const here = { ...base, PGWS_HOST: '127.0.0.1' }
  const tls = (certificate: string, key: string) => ({
    ...here,
    PGWS_CERTIFICATE_FILE: file(certificate),
    PGWS_KEY_FILE: file(key)
  })
  const cases: [string, Record<string, string>, RegExp][] = [
    ['a taken port', { ...here, PGWS_PORT: String(port) }, /PGWS_PORT: port \d+ is already in use/],
    [
      'no address of ours',
      { ...here, PGWS_HOST: '192.0.2.1' },
      /PGWS_HOST: "192\.0\.2\.1" is not an address/
    ],
    [
      'a metrics port that is in use',
      { ...here, PGWS_METRICS_PORT: '*' },
      /PGWS_METRICS_PORT=\d+\) is already in use/
    ],
    [
      'certificate and key swapped',
      tls('key.pem', 'certificate.pem'),
      /PGWS_CERTIFICATE_FILE contains a private key.*swap them/
    ],
    [
      'a certificate twice',
      tls('certificate.pem', 'certificate.pem'),
      /PGWS_KEY_FILE must contain a private key/
    ],
    ['a key twice', tls('key.pem', 'key.pem'), /PGWS_CERTIFICATE_FILE must contain a certificate/],
    [
      "another certificate's key",
      tls('other.pem', 'key.pem'),
      /PGWS_KEY_FILE contains the key of another certificate/
    ],
    [
      'a folder that does not exist',
      { ...here, PGWS_ROOT_PATH: './none' },
      /PGWS_ROOT_PATH names "\.\/none", which does not exist/
    ],
    [
      'a file for a folder',
      { ...here, PGWS_ROOT_PATH: file('key.pem') },
      /PGWS_ROOT_PATH names .*, which is not a folder/
    ],
    [
      'a mistaken list',
      { ...here, PGWS_ENVELOPE_CLAIMS: 'None' },
      /PGWS_ENVELOPE_CLAIMS\) must be all, none/
    ],
    [
      'a misspelled name',
      { ...here, PGWS_JWT_SECERT: 'geheim' },
      /PGWS_JWT_SECERT is unknown: did you mean PGWS_JWT_SECRET\?/
    ]
  ]
  for (const [what, environment, expected] of cases) {
    if (environment.PGWS_METRICS_PORT === '*') {
      const metrics = createServer().listen(0, '::')
      await once(metrics, 'listening')
      t.teardown(() => metrics.close())
      environment.PGWS_METRICS_PORT = String((metrics.address() as AddressInfo).port)
    }
    const output = await refused(t, environment)
    t.match(output, expected, what)
    t.notMatch(output, /geheim/)
  }
  // The command writes the error to standard error, and exits with 1, before it has a server and after.
  for (const [what, environment, expected] of [cases[0]!, cases.at(-1)!]) {
    const app = await run(t, environment)
    t.equal(await app.exit, 1, what)
    t.match(app.output(), expected, what)
    t.notMatch(app.output(), /geheim/)
  }
})

t.test(
  'rows 6 and 29: reads the secret and the database from @file, and decodes base64 secrets',
  async (t) => {
    const folder = t.testdir({ secret: `${SECRET}\n`, uri: `  ${dbUri}\n\n` })
    const app = await serve(t, {
      PGWS_DB_URI: `@${join(folder, 'uri')}`,
      PGWS_JWT_SECRET: `@${join(folder, 'secret')}`
    })
    await open(t, `${app.ws}/a/${rw}`)
    const base64 = await serve(t, {
      PGWS_DB_URI: dbUri,
      PGWS_JWT_SECRET: Buffer.from(`${SECRET}ÿ`)
        .toString('base64')
        .replaceAll('+', '-')
        .replaceAll('/', '_')
        .replaceAll('=', '.'),
      PGWS_JWT_SECRET_BASE64: 'True'
    })
    await open(t, `${base64.ws}/a/${token({ mode: 'r' }, `${SECRET}ÿ`)}`)
  }
)

t.test('row 30: PGWS_POOL_SIZE connections publish, and the listener has another one', async (t) => {
  const uri = await database()
  const app = await serve(t, { PGWS_DB_URI: uri, PGWS_JWT_SECRET: SECRET, PGWS_POOL_SIZE: '2' })
  const body = JSON.stringify({ channel: 'a', payload: 'x' })
  const headers = { authorization: `Bearer ${rw}`, 'content-type': 'application/json' }
  let most = 0
  await until(async () => {
    const requests = Array.from({ length: 50 }, (_, i) =>
      i % 2 ? fetch(`${app.http}/health`) : fetch(`${app.http}/publish`, { method: 'POST', headers, body })
    )
    for (const response of await Promise.all(requests)) await response.arrayBuffer()
    const { rows } = await query(
      uri,
      'select application_name as name, count(*)::int as n from pg_stat_activity where datname = current_database() group by 1'
    )
    const count = Object.fromEntries(rows.map(({ name, n }) => [name, n]))
    t.equal(count['fastify-pg-websockets listener'], 1)
    most = Math.max(most, count['fastify-pg-websockets publisher'])
    return most >= 2
  })
  t.equal(most, 2)
})

t.test('row 31: retries PGWS_RETRIES times with exponential backoff, then exits with an error', async (t) => {
  const app = await run(t, {
    PGWS_DB_URI: 'postgresql://user:geheim@127.0.0.1:1/db',
    PGWS_JWT_SECRET: SECRET,
    PGWS_RETRIES: '3'
  })
  t.equal(await app.exit, 1)
  const pauses = [...app.output().matchAll(/trying again in (\d+) ms/g)].map(([, pause]) => pause)
  t.same(pauses, ['1000', '2000'])
  t.match(app.output(), /in 3 attempts/)
  t.match(app.output(), /could not start: Could not listen to the database.*127\.0\.0\.1:1/)
  t.notMatch(app.output(), /geheim/)
})

t.test(
  'row 32: with PGWS_CHECK_LISTENER_INTERVAL, replaces a lost listener, and sockets stay open',
  async (t) => {
    const uri = await database()
    const app = await serve(t, {
      PGWS_DB_URI: uri,
      PGWS_JWT_SECRET: SECRET,
      PGWS_CHECK_LISTENER_INTERVAL: '500'
    })
    const client = await open(t, `${app.ws}/a/${rw}`)
    await query(
      uri,
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listener' and datname = current_database()"
    )
    await until(() => app.output().includes('listening to the database again'))
    await notify(uri, '{"channel":"a"}')
    await client.received(1)
  }
)

// Without its own limit, it would wait forever.
t.test('with the supervisor, the app listens even without a database', async (t) => {
  const app = await serve(t, {
    PGWS_DB_URI: 'postgresql://127.0.0.1:1/db',
    PGWS_JWT_SECRET: SECRET,
    PGWS_CHECK_LISTENER_INTERVAL: '1000'
  })
  t.equal((await fetch(`${app.http}/health`)).status, 503)
  t.equal((await fetch(`${app.http}/health/live`)).status, 200)
})

t.test(
  'row 33: without the supervisor, the server ends with an error and a non-zero exit code',
  async (t) => {
    const uri = await database()
    const app = await started(await run(t, { PGWS_DB_URI: uri, PGWS_JWT_SECRET: SECRET }))
    const client = await open(t, `${app.ws}/a/${rw}`)
    const closed = client.closed()
    await query(
      uri,
      "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listener' and datname = current_database()"
    )
    t.equal(await app.exit, 1)
    t.equal((await closed).code, 1001)
    t.match(app.output(), /listener's connection was lost/)
  }
)

t.test('row 35: PGWS_HOST accepts what Warp accepts', async (t) => {
  const cases: [string, string[], string[]][] = [
    ['*', ['127.0.0.1'], []],
    ['*4', ['127.0.0.1'], []],
    ['!4', ['127.0.0.1'], ['[::1]']],
    ['127.0.0.1', ['127.0.0.1'], ['[::1]']]
  ]
  const ipv6 = existsSync('/proc/net/if_inet6') && readFileSync('/proc/net/if_inet6', 'utf8') !== ''
  if (ipv6)
    cases.push(
      ['*6', ['127.0.0.1', '[::1]'], []],
      ['!6', ['[::1]'], ['127.0.0.1']],
      ['::1', ['[::1]'], ['127.0.0.1']]
    )
  // Another program may have the same port of the other address.
  const secret = randomBytes(32).toString('hex')
  const authorization = `Bearer ${token({ admin: true }, secret)}`
  for (const [host, answers, silent] of cases) {
    const { port, close } = await serve(t, { ...base, PGWS_JWT_SECRET: secret, PGWS_HOST: host })
    const answersAt = (name: string) =>
      fetch(`http://${name}:${port}/channels`, { headers: { authorization } }).then(
        ({ status }) => status === 200,
        () => false
      )
    for (const name of answers) t.ok(await answersAt(name), `${host} ${name}`)
    for (const name of silent) t.notOk(await answersAt(name), `${host} ${name}`)
    await close()
  }
})

t.test('row 36: one error names every variable that is missing or malformed', async (t) => {
  const output = await refused(t, {
    PGWS_DB_URI: dbUri,
    PGWS_PORT: 'http',
    PGWS_POOL_SIZE: '-1',
    PGWS_RETRIES: 'many',
    PGWS_JWT_SECRET_BASE64: 'perhaps',
    PGWS_CERTIFICATE_FILE: 'x'
  })
  for (const name of [
    'PORT',
    'POOL_SIZE',
    'RETRIES',
    'JWT_SECRET_BASE64',
    'JWT_SECRET ',
    'CERTIFICATE_FILE'
  ]) {
    t.ok(output.includes(`PGWS_${name}`), name)
  }
  t.notMatch(output, dbUri)
})

t.test('reads variables from a file .env; the environment has precedence', async (t) => {
  const port = await freePort()
  const cwd = t.testdir({
    '.env': `PGWS_PORT=1\nPGWS_LISTEN_CHANNEL="from file"\nPGWS_JWT_SECRET=${SECRET}\n`
  })
  const child = spawn(process.execPath, [CLI], {
    cwd,
    env: { PATH: process.env.PATH, PGWS_DB_URI: dbUri, PGWS_PORT: String(port) }
  })
  t.teardown(() => child.kill('SIGKILL'))
  await until(
    async () => (await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined))?.status === 200
  )
  const client = await open(t, `ws://127.0.0.1:${port}/a/${rw}`)
  await notify(dbUri, '{"channel":"a"}', 'from file')
  await client.received(1)
})

t.test(
  'row 37: on SIGTERM, closes sockets with 1001, publishes what it received, and exits with 0',
  async (t) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const app = await started(await run(t, base))
      const { payloads } = await sqlListener(t, dbUri)
      const client = await open(t, `${app.ws}/a/${rw}`)
      for (let i = 0; i < 50; i++) client.send('x')
      await client.received(1)
      const closed = client.closed()
      app.child.kill(signal)
      app.child.kill(signal)
      t.equal((await closed).code, 1001)
      t.equal(await app.exit, 0)
      await until(() => payloads.length === 50)
      await t.rejects(fetch(`${app.http}/health`))
    }
  }
)

t.test('row 39: works with the sample page of postgres-websockets', async (t) => {
  // Its page opens ws://host/<channel>/<token> with the token of its sample-env, and the meta channel with it.
  const published =
    'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJtb2RlIjoicncifQ.QKGnMJe41OFZcjz_qQSplmWAmVd_hmVjijKUNoJYpis'
  const both =
    'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJtb2RlIjoicnciLCJjaGFubmVsIjoiY2hhdCJ9.fEm6P7GHeJWZG8OtZhv3H0JdqPljE5dainvsoupM9pA'
  const secret = 'auwhfdnskjhewfi34uwehdlaehsfkuaeiskjnfduierhfsiweskjcnzeiluwhskdewishdnpwe'
  const app = await serve(t, { ...base, PGWS_JWT_SECRET: secret, PGWS_META_CHANNEL: 'server-info' })
  const meta = await open(t, `${app.ws}/server-info/${published}`)
  const chat = await open(t, `${app.ws}/chat/${published}`)
  const chats = await open(t, `${app.ws}/${both}`)
  chat.send('hello')
  t.equal(JSON.parse((await chats.received(1))[0]!).payload, 'hello')
  t.match(JSON.parse((await meta.received(3))[1]!), { event: 'ConnectionOpen', payload: 'chat' })
})

t.test('logs an uncaught error, and the server ends in order with exit code 1', async (t) => {
  const preload = join(
    t.testdir({ 'crash.cjs': "process.on('SIGUSR2', () => { throw new Error('a mistake') })" }),
    'crash.cjs'
  )
  const app = await started(await run(t, { ...base, NODE_OPTIONS: `--require=${preload}` }))
  const client = await open(t, `${app.ws}/a/${rw}`)
  const closed = client.closed()
  app.child.kill('SIGUSR2')
  t.equal((await closed).code, 1001)
  t.equal(await app.exit, 1)
  t.match(app.output(), /a mistake/)
})

t.test('`fastify start` runs the app', async (t) => {
  const port = await freePort()
  const fastifyCli = join(root, 'node_modules/fastify-cli/cli.js')
  const appFile = join(root, 'dist/app.js')
  const child = spawn(
    process.execPath,
    [fastifyCli, 'start', '--options', '-a', '127.0.0.1', '-p', String(port), appFile],
    {
      cwd: t.testdir(),
      env: { PATH: process.env.PATH, ...base }
    }
  )
  t.teardown(() => child.kill('SIGKILL'))
  await until(
    async () => (await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined))?.status === 200,
    20_000
  )
  const client = await open(t, `ws://127.0.0.1:${port}/a/${rw}`)
  const closed = client.closed()
  client.send('x')
  await client.received(1)
  child.kill('SIGTERM')
  t.equal((await closed).code, 1001)
  const [code] = await once(child, 'exit')
  t.equal(code, 0)
})

t.test('the log and the events describe a refused handshake in the same words', async (t) => {
  const app = await serve(t, { PGWS_DB_URI: dbUri, PGWS_JWT_SECRET: SECRET })
  const { body } = await refusal(t, `${app.ws}/a/${token({ mode: 'rw', exp: 1 })}`)
  const { statusCode, message } = JSON.parse(body)
  const headers = { authorization: `Bearer ${token({ admin: true })}` }
  const events = await (await fetch(`${app.http}/events?types=refusal`, { headers })).json()
  t.match(events, [{ type: 'refusal', text: `${statusCode}: ${message}`, code: 'FST_PGWS_TOKEN_EXPIRED' }])
  const line = app
    .output()
    .split('\n')
    .find((text) => text.includes(`socket refused: ${message}`))
  t.match(JSON.parse(line!), { request: { method: 'GET', remoteAddress: '127.0.0.1' } })
  t.notMatch(line, /eyJ/)
})
