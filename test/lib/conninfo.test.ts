import { once } from 'node:events'
import { chmodSync, readFileSync } from 'node:fs'
import { connect as connectSocket, createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { TLSSocket } from 'node:tls'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import t, { type Test } from 'tap'
import { acquire, clientClass, connect } from '../../lib/connect.js'
import { parseConninfo } from '../../lib/conninfo.js'
import { testPostgres } from '../postgres.js'

/** What matters of the first target. */
function first(text: string, env: NodeJS.ProcessEnv = {}) {
  const { host, port, user, password, database, options } = parseConninfo(text, env)[0]!.config
  return { host, port, user, password, database, options }
}

t.test('row 29: reads URIs as libpq does', async (t) => {
  const cases: [string, object][] = [
    ['postgresql://host', { host: 'host', port: 5432 }],
    ['postgres://u:p@host:5433/db', { host: 'host', port: 5433, user: 'u', password: 'p', database: 'db' }],
    ['postgresql://u%40x:p%2F%3A@host/my%20db', { user: 'u@x', password: 'p/:', database: 'my db' }],
    ['postgresql://[2001:db8::1]:5433/db', { host: '2001:db8::1', port: 5433 }],
    ['postgresql://%2Fvar%2Flib%2Fpg/db', { host: '/var/lib/pg', database: 'db' }],
    [
      'postgresql:///db?host=/tmp/x&port=6000&user=u',
      { host: '/tmp/x', port: 6000, user: 'u', database: 'db' }
    ],
    ['postgresql://u@/db?host=%2Ftmp', { host: '/tmp', user: 'u', database: 'db' }],
    ['postgresql://u@host?options=-c%20geqo%3Doff', { options: '-c geqo=off', database: 'u' }]
  ]
  for (const [text, expected] of cases) t.match(first(text), expected, text)
})

t.test('row 29: reads keyword strings as libpq does', async (t) => {
  const cases: [string, object][] = [
    ['host=h port=5433 user=u dbname=d', { host: 'h', port: 5433, user: 'u', database: 'd' }],
    [" host = 'a host'  password='it\\'s \\\\ x' user=u ", { host: 'a host', password: "it's \\ x" }],
    ["user=u\tdbname='' host=h\n", { database: 'u' }],
    ['host=h user=back\\ slash', { user: 'back slash' }]
  ]
  for (const [text, expected] of cases) t.match(first(text), expected, text)
})

t.test('row 29: PG* variables and the password file fill what is missing', async (t) => {
  const folder = t.testdir({
    '.pgpass': '# comment\nother:*:*:*:wrong\nh:5433:d\\:b:*:from\\:file\n*:*:*:u:last\n'
  })
  chmodSync(join(folder, '.pgpass'), 0o600)
  const env = { PGHOST: 'h', PGPORT: '5433', PGUSER: 'u', PGDATABASE: 'd:b', HOME: folder }
  t.match(first('postgresql://', env), {
    host: 'h',
    port: 5433,
    user: 'u',
    database: 'd:b',
    password: 'from:file'
  })
  t.match(first('postgresql://x@y:1/z', { ...env, PGPASSWORD: 'p' }), {
    host: 'y',
    port: 1,
    user: 'x',
    password: 'p'
  })
  t.match(first('host=y', env), { password: 'last' })
  chmodSync(join(folder, '.pgpass'), 0o644)
  t.match(first('host=y', env), { password: '' })
})

t.test('several hosts are tried in turn, each with the attempts that sslmode asks for', async (t) => {
  const hosts = (text: string) =>
    parseConninfo(text, {}).map(({ name, config }) => `${name}${config.ssl ? ' tls' : ''}`)
  t.same(hosts('postgresql://a,b:1/?sslmode=disable'), ['a:5432', 'b:1'])
  t.same(hosts('host=a,b port=1 sslmode=disable'), ['a:1', 'b:1'])
  t.same(hosts('host=a,b port=1,2'), ['a:1 tls', 'a:1', 'b:2 tls', 'b:2'])
  t.same(hosts('host=a sslmode=allow'), ['a:5432', 'a:5432 tls'])
  t.same(hosts('host=a sslmode=require'), ['a:5432 tls'])
  t.same(hosts('host=/tmp sslmode=require'), ['/tmp'])
  t.same(hosts('host=name hostaddr=10.0.0.1 sslmode=disable'), ['10.0.0.1:5432'])
})

t.test('what is wrong is said in words, without the password', async (t) => {
  const cases: [string, RegExp][] = [
    ['postgresql://u:geheim@h:port/d', /host/],
    ['postgresql://u:geheim@h/?nonsense=1', /invalid connection option "nonsense"/],
    ['password=geheim host', /keyword=value/],
    ["password='geheim", /keyword=value/],
    ['postgresql://u:geheim@h/?sslmode=maybe', /sslmode must be one of disable, /],
    ['host=a,b,c port=1,2 password=geheim', /could not match 2 port numbers to 3 hosts/],
    ['postgresql://u:geheim%zz@h', /percent-encoding/],
    ['host=h password=geheim port=99999', /port must be a whole number/],
    ['host=h sslmode=verify-full sslrootcert=/none', /sslrootcert names a file that cannot be read/],
    ['host=h sslmode=verify-ca', /needs a root certificate/]
  ]
  for (const [text, expected] of cases) {
    try {
      parseConninfo(text, { HOME: '/nonexistent' })
      t.fail(text)
    } catch (error) {
      t.match((error as Error).message, expected)
      t.notMatch((error as Error).message, /geheim/)
    }
  }
})

/** A TCP port in front of the Unix socket. */
async function relay(t: Test, socketFolder: string): Promise<number> {
  const server = createServer((socket) => {
    const upstream = connectSocket(join(socketFolder, '.s.PGSQL.5432'))
    socket.on('error', () => upstream.destroy()).on('close', () => upstream.destroy())
    upstream.on('error', () => socket.destroy()).on('close', () => socket.destroy())
    socket.pipe(upstream).pipe(socket)
  })
  return listening(t, server)
}

async function listening(t: Test, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return (server.address() as { port: number }).port
}

const postgres = await testPostgres(t)

t.test('a dead host is passed over, by a single connection and by the pool', async (t) => {
  const port = await relay(t, postgres.socketFolder)
  const silent = await listening(
    t,
    createServer((socket) => socket.on('error', () => {}))
  )
  const targets = parseConninfo(
    `host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,${silent},${port} user=postgres connect_timeout=1 sslmode=disable`,
    {}
  )
  const client = await connect(targets)
  t.equal((await client.query('select 1 as one')).rows[0].one, 1)
  await client.end()

  const pool = new pg.Pool({ Client: clientClass(targets), max: 2 })
  const clients = [await acquire(pool, targets), await acquire(pool, targets)]
  for (const client of clients) client.release()
  t.equal(pool.totalCount, 2)
  await pool.end()
})

t.test('when no host answers, the error names the last', async (t) => {
  await t.rejects(connect(parseConninfo('host=127.0.0.1,127.0.0.1 port=1,2 password=geheim', {})), {
    message: /127\.0\.0\.1:2.*ECONNREFUSED/
  })
})

t.test('target_session_attrs chooses the session', async (t) => {
  const uri = (attrs: string) => parseConninfo(`${postgres.uri}&target_session_attrs=${attrs}`, {})
  const client = await connect(uri('read-write'))
  await client.end()
  await t.rejects(connect(uri('standby')), { message: /not standby/ })
})

t.test('sslmode means what libpq documents', async (t) => {
  const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
  const secure = { cert: readFileSync(fixture('certificate.pem')), key: readFileSync(fixture('key.pem')) }
  const socketPath = join(postgres.socketFolder, '.s.PGSQL.5432')
  // PostgreSQL offers TLS on TCP only, and has no TCP here: this takes its part in the handshake
  // (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL).
  const port = await listening(
    t,
    createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', (request) => {
        if (request.length !== 8) return socket.destroy()
        socket.write('S')
        const decrypted = new TLSSocket(socket, { isServer: true, ...secure })
        const upstream = connectSocket(socketPath)
        decrypted.on('error', () => upstream.destroy()).on('close', () => upstream.destroy())
        decrypted.pipe(upstream).pipe(decrypted)
      })
    })
  )
  const plainPort = await relay(t, postgres.socketFolder)
  const root = fixture('certificate.pem')
  const other = fixture('other.pem')
  const attempt = async (text: string) => {
    const client = await connect(parseConninfo(`user=postgres ${text}`, { HOME: '/nonexistent' }))
    const encrypted =
      'encrypted' in (client as unknown as { connection: { stream: object } }).connection.stream
    await client.end()
    return encrypted
  }
  t.equal(await attempt(`host=127.0.0.1 port=${port}`), true, 'prefer takes TLS')
  t.equal(await attempt(`host=127.0.0.1 port=${plainPort}`), false, 'prefer does without')
  t.equal(await attempt(`host=127.0.0.1 port=${port} sslmode=require`), true)
  await t.rejects(attempt(`host=127.0.0.1 port=${plainPort} sslmode=require`), {
    message: /does not support SSL/
  })
  t.equal(
    await attempt(`host=x.invalid hostaddr=127.0.0.1 port=${port} sslmode=verify-ca sslrootcert=${root}`),
    true
  )
  await t.rejects(attempt(`host=127.0.0.1 port=${port} sslmode=verify-ca sslrootcert=${other}`))
  await t.rejects(attempt(`host=127.0.0.1 port=${port} sslmode=require sslrootcert=${other}`))
  t.equal(await attempt(`host=127.0.0.1 port=${port} sslmode=verify-full sslrootcert=${root}`), true)
  t.equal(
    await attempt(`host=localhost hostaddr=127.0.0.1 port=${port} sslmode=verify-full sslrootcert=${root}`),
    true
  )
  await t.rejects(
    attempt(`host=x.invalid hostaddr=127.0.0.1 port=${port} sslmode=verify-full sslrootcert=${root}`),
    {
      message: /x\.invalid/
    }
  )
})
