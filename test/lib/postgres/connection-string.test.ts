import { once } from 'node:events'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect as connectSocket, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { TLSSocket } from 'node:tls'
import pg from 'pg'
import t, { type Test } from 'tap'
import { connect, PoolConnector } from '../../../lib/postgres/connecting/connect.js'
import { parseConninfo } from '../../../lib/postgres/connecting/connection-string.js'
import { query, until } from '../../support/helper.js'
import { testPostgres } from '../../support/postgres.js'
import { root } from '../../support/root.js'

/** The relevant members of the first target. */
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

t.test('row 29: PG* variables and the password file add what is missing', async (t) => {
  const folder = t.testdir({
    '.pgpass': '# comment\nother:*:*:*:wrong\nh:5433:d\\:b:*:from\\:file\n*:*:*:u:last\\\n'
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
  // A backslash at the end is an ordinary character.
  t.match(first('host=y', env), { password: 'last\\' })
  chmodSync(join(folder, '.pgpass'), 0o644)
  t.match(first('host=y', env), { password: '' })
})

t.test('tries several hosts in turn, each with the attempts that sslmode requires', async (t) => {
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

t.test('errors say what is wrong, and do not contain the password', async (t) => {
  const cases: [string, RegExp][] = [
    ['postgresql://u:geheim@h:port/d', /host/],
    [
      'postgresql://u:geheim@h/?nonsense=1',
      /connection string has an unknown option; the options are host, /
    ],
    ['host=h password=my geheim=1', /unknown option.*quote a password that contains spaces/],
    ['mysql://u:geheim=x@h', /unknown option/],
    ['postgresql://u:12?a=geheim&geheim=3@h', /unknown option/],
    ['postgresql://u:a&geheim=x?geheim=x@h', /host must be/],
    ['postgresql://u:a@geheim@h/d', /percent-encode "@" as %40/],
    ['postgresql://u:1/geheim@h/d', /percent-encode "@" as %40, "\/" as %2F/],
    ['postgresql://u:geheim/1@h/d', /host must be/],
    ['postgresql://u:a@b,geheim@h', /percent-encode/],
    ['password=geheim host', /keyword=value/],
    ["password='geheim", /keyword=value/],
    ['postgresql://u:geheim@h/?sslmode=maybe', /sslmode must be one of disable, /],
    ['host=a,b,c port=1,2 password=geheim', /there are 2 ports, but 3 hosts/],
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

t.test('a single connection and the pool skip a host that does not answer', async (t) => {
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

  const connector = new PoolConnector(targets)
  const pool = new pg.Pool({ Client: connector.Client, max: 2 })
  const clients = [await connector.acquire(pool), await connector.acquire(pool)]
  for (const client of clients) client.release()
  t.equal(pool.totalCount, 2)
  await pool.end()
})

t.test('accepts connection strings of hosting providers', async (t) => {
  const cases: [string, string[], object?][] = [
    [
      'postgresql://u:p@pooler.example:6432/db?pgbouncer=true&connection_limit=1',
      ['pgbouncer', 'connection_limit']
    ],
    ['postgres://u:p@db.example/db?schema=public&statement_cache_size=0', ['schema', 'statement_cache_size']],
    ['postgres://u:p@db.example/db?uselibpqcompat=true&sslmode=require', ['uselibpqcompat']],
    ['postgres://u:p@db.example/db?sslmode=require&supa=base-pooler.x', ['supa']],
    [
      'postgresql://u:p@ep-a-1.example/db?options=endpoint%3Dep-a-1&sslmode=require',
      [],
      { options: 'endpoint=ep-a-1' }
    ],
    [
      'postgresql://u:p@ep-a-1.example/db?sslmode=require&channel_binding=require',
      [],
      { enableChannelBinding: true }
    ],
    ['postgresql://u:p@db.example/db?ssl=false', [], { ssl: false }]
  ]
  for (const [text, names, expected = {}] of cases) {
    const ignored: string[][] = []
    const [target] = parseConninfo(text, {}, (some) => ignored.push(some))
    t.same(ignored, names.length === 0 ? [] : [names], text)
    t.match(target!.config, { user: 'u', password: 'p', database: 'db', ...expected }, text)
  }
  t.equal(parseConninfo('postgresql://u:p@h/db?ssl=false', {}).length, 1, 'no attempt with TLS')

  const refused: [string, RegExp][] = [
    ['postgresql://u:geheim@h/db?sslmode=no-verify', /"no-verify".*use sslmode=require/],
    ['postgresql://u:geheim@h/db?ssl=no-verify', /^ssl: use sslmode=require/],
    ['postgresql://u:geheim@h/db?sslaccept=accept_invalid_certs', /^sslaccept: use sslmode=require/],
    [
      'postgresql://u:geheim@h/db?channel_binding=always',
      /channel_binding must be one of disable, prefer, require/
    ]
  ]
  for (const [text, message] of refused) {
    t.throws(() => parseConninfo(text, {}), { message }, text)
    t.throws(() => parseConninfo(text, {}), { message: /^(?!.*geheim)/ }, 'without the password')
  }
})

t.test('channel_binding=require rejects a login without channel binding', async (t) => {
  const port = await tlsRelay(t)
  const uri = (binding: string) =>
    `host=127.0.0.1 port=${port} user=postgres dbname=postgres password=x sslmode=require channel_binding=${binding}`
  const client = await connect(parseConninfo(uri('prefer'), {}))
  await client.end()
  const required = parseConninfo(uri('require'), {})
  await t.rejects(connect(required), {
    message: /channel_binding=require: the server did not use channel binding/
  })
  const connector = new PoolConnector(required)
  const pool = new pg.Pool({ Client: connector.Client, max: 1 })
  await t.rejects(connector.acquire(pool), { message: /channel_binding=require/ })
  await pool.end()
})

t.test('if no host answers, the error is that of the last one', async (t) => {
  await t.rejects(connect(parseConninfo('host=127.0.0.1,127.0.0.1 port=1,2 password=geheim', {})), {
    message: /127\.0\.0\.1:2.*ECONNREFUSED/
  })
})

t.test('connects to the primary of several hosts, unless target_session_attrs says otherwise', async (t) => {
  const wanted = (text: string) =>
    parseConninfo(`${text} sslmode=disable`, {}).map((target) => target.sessionAttrs)
  t.same(wanted('host=a,b'), ['primary', 'primary'])
  t.same(wanted('host=a,b target_session_attrs=any'), ['any', 'any'])
  t.same(wanted('host=a,b target_session_attrs=read-write'), ['read-write', 'read-write'])
  t.same(wanted('host=a'), ['any'])
})

t.test('target_session_attrs chooses the session', async (t) => {
  const uri = (attrs: string) => parseConninfo(`${postgres.uri}&target_session_attrs=${attrs}`, {})
  const client = await connect(uri('read-write'))
  await client.end()
  await t.rejects(connect(uri('standby')), { message: /not standby/ })
})

const fixture = (name: string) => join(root, `test/fixtures/${name}`)
const isEncrypted = (client: pg.ClientBase) =>
  'encrypted' in (client as unknown as { connection: { stream: object } }).connection.stream

/**
 * PostgreSQL offers TLS only over TCP, which it does not listen on here. So this does its part of the handshake
 * (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL).
 */
async function tlsRelay(
  t: Test,
  fault: { next?: 'cut' | 'break TLS' | 'refuse TLS' | undefined; plain?: boolean; seen?: string[] } = {}
): Promise<number> {
  const secure = { cert: readFileSync(fixture('certificate.pem')), key: readFileSync(fixture('key.pem')) }
  const server = createServer((socket) => {
    const { next } = fault
    fault.next = undefined
    socket.on('error', () => {})
    if (next === 'cut') return socket.destroy()
    socket.once('data', (request) => {
      const upstream = connectSocket(join(postgres.socketFolder, '.s.PGSQL.5432'))
      upstream.on('error', () => {})
      fault.seen?.push(request.length === 8 ? 'TLS' : 'plain')
      if (request.length !== 8) {
        if (!fault.plain) return socket.destroy()
        upstream.write(request)
        socket.pipe(upstream).pipe(socket)
        return
      }
      socket.write(next === 'refuse TLS' ? 'N' : 'S')
      if (next === 'refuse TLS') return
      if (next === 'break TLS') {
        socket.once('data', () => socket.end('this is no TLS'))
        return
      }
      const decrypted = new TLSSocket(socket, { isServer: true, ...secure })
      decrypted.on('error', () => upstream.destroy()).on('close', () => upstream.destroy())
      decrypted.pipe(upstream).pipe(decrypted)
    })
  })
  return listening(t, server)
}

t.test('sslmode means what libpq documents', async (t) => {
  const port = await tlsRelay(t)
  const plainPort = await relay(t, postgres.socketFolder)
  const root = fixture('certificate.pem')
  const other = fixture('other.pem')
  const attempt = async (text: string) => {
    const client = await connect(parseConninfo(`user=postgres ${text}`, { HOME: '/nonexistent' }))
    const encrypted = isEncrypted(client)
    await client.end()
    return encrypted
  }
  t.equal(await attempt(`host=127.0.0.1 port=${port}`), true, 'prefer uses TLS')
  t.equal(await attempt(`host=127.0.0.1 port=${plainPort}`), false, 'prefer connects without TLS')
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

t.test(
  'prefer: connects without TLS only after TLS itself has failed, and only this connection',
  async (t) => {
    const fault: Parameters<typeof tlsRelay>[1] = { plain: true }
    const port = await tlsRelay(t, fault)
    const targets = parseConninfo(`host=127.0.0.1 port=${port} user=postgres`, { HOME: '/nonexistent' })
    const connector = new PoolConnector(targets)
    const pool = new pg.Pool({ Client: connector.Client, max: 20 })
    t.teardown(() => pool.end())
    const clients: pg.PoolClient[] = []
    const acquired = async () => {
      const client = await connector.acquire(pool)
      clients.push(client)
      return isEncrypted(client)
    }
    const connected = async () => {
      const client = await connect(targets)
      const encrypted = isEncrypted(client)
      await client.end()
      return encrypted
    }
    for (const open of [acquired, connected]) {
      fault.next = 'cut'
      await t.rejects(open(), { message: /failed/ })
      t.equal(await open(), true, 'a network error says nothing about TLS')
      for (const next of ['break TLS', 'refuse TLS'] as const) {
        fault.next = next
        t.equal(await open(), false, next)
        t.equal(await open(), true, 'the next one uses TLS again')
      }
    }
    // Of many at once, one.
    fault.next = 'break TLS'
    const encrypted = await Promise.all(Array.from({ length: 5 }, acquired))
    t.same(encrypted.sort(), [false, true, true, true, true])
    for (const client of clients) client.release()
  }
)

t.test('does not retry a wrong password, with or without TLS', async (t) => {
  const admin = new pg.Client(postgres.uri)
  await admin.connect()
  await admin.query("create role guarded login password 'right'")
  const { rows } = await admin.query("select pg_read_file('pg_hba.conf') as hba")
  const hba = join(postgres.dataFolder, 'pg_hba.conf')
  writeFileSync(hba, `local all guarded scram-sha-256\n${rows[0].hba}`)
  await admin.query('select pg_reload_conf()')
  t.teardown(() => admin.end())
  const seen: string[] = []
  const port = await tlsRelay(t, { plain: true, seen })
  const targets = parseConninfo(
    `host=127.0.0.1,127.0.0.1 port=${port} dbname=postgres user=guarded password=wrong`,
    { HOME: '/nonexistent' }
  )
  const refused = { message: /password authentication failed/ }
  // The reload takes a moment.
  await until(() =>
    connect(targets).then(
      (client) => client.end().then(() => false),
      () => true
    )
  )
  seen.length = 0
  await t.rejects(connect(targets), refused)
  t.same(seen, ['TLS'])
  const connector = new PoolConnector(targets)
  const pool = new pg.Pool({ Client: connector.Client, max: 2 })
  await t.rejects(connector.acquire(pool), refused)
  t.same(seen, ['TLS', 'TLS'])
  await pool.end()
})

t.test('only the connection fails that the database ends before it is used', async (t) => {
  const postgres = await testPostgres(t)
  const socket = join(postgres.socketFolder, '.s.PGSQL.5432')
  const held: Buffer[] = []
  let ended: Socket | undefined
  // Both messages of the database arrive together: that the session is ready, and that it has ended.
  const proxy = createServer((client) => {
    const server = connectSocket(socket)
    client.pipe(server).on('data', (bytes: Buffer) => held.push(bytes))
    server.on('end', () => {
      ended = client
      client.end(Buffer.concat(held))
    })
  })
  proxy.listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  t.teardown(() => proxy.close())
  const { port } = proxy.address() as AddressInfo
  const targets = parseConninfo(`postgresql://postgres@127.0.0.1:${port}/postgres?sslmode=disable`)
  const connector = new PoolConnector(targets)
  const pool = new pg.Pool({ Client: connector.Client, application_name: 'held back' })
  pool.on('error', () => {})
  const acquired = connector.acquire(pool)
  await until(async () => {
    const ends = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'held back'"
    await query(postgres.uri, ends)
    return ended !== undefined
  })
  await t.rejects(acquired.then((client) => client.query('select 1').finally(() => client.release(true))))
  await pool.end()
})
