import fastifyJwt from '@fastify/jwt'
import fastifyPostgres from '@fastify/postgres'
import fastifyWebsocket from '@fastify/websocket'
import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import pgWebsockets from '../../index.js'
import {
  build,
  notify,
  open,
  query,
  refusal,
  SECRET,
  token,
  until,
  withOwnPostgres
} from '../support/helper.js'

const { postgres, database } = await withOwnPostgres(t)
const dbUri = await database()
const rw = token({ mode: 'rw' })
const text = (channel: string, payload = 'test') => JSON.stringify({ channel, payload })

/** A host with its own routes, hooks and plugins. */
async function host(fastify: FastifyInstance) {
  await fastify.register(fastifyWebsocket)
  await fastify.register(fastifyJwt, { secret: 'the secret of the host, not ours' })
  await fastify.register(fastifyJwt, { secret: 'another secret of the host', namespace: 'host' })
  await fastify.register(fastifyPostgres, { connectionString: dbUri })
  fastify.get('/:slug', async (request) => ({
    slug: (request.params as { slug: string }).slug,
    ws: request.ws
  }))
  fastify.get('/live', { websocket: true }, (socket) => socket.send('from the host'))
  fastify.get('/fails', async () => {
    throw new Error('host failure')
  })
  fastify.setErrorHandler((error, _request, reply) =>
    reply.code(500).send({ handled: (error as Error).message })
  )
  fastify.addHook('onSend', async (_request, reply) => {
    reply.header('x-host', 'hook')
  })
  // As in hosts with Zod or TypeBox schemas.
  fastify.setValidatorCompiler(() => () => false)
  fastify.setSerializerCompiler(() => () => '"what the host makes of it"')
}

for (const order of ['before', 'after'] as const) {
  for (const prefix of ['', '/realtime']) {
    t.test(
      `row 38: works in a host that registers its own plugins ${order} ours, prefix "${prefix}"`,
      async (t) => {
        const { fastify, http, ws, lines } = await build(t, { dbUri, prefix }, { [order]: host })
        const client = await open(t, `${ws}${prefix}/chat/${rw}`)
        await notify(dbUri, text('chat'))
        t.same(await client.received(1), [text('chat')])
        client.send('hello')
        t.equal(JSON.parse((await client.received(2))[1]!).payload, 'hello')
        const long = token({ mode: 'rw', channel: 'chat', padding: 'x'.repeat(6000) })
        await open(t, `${ws}${prefix}/${long}`)
        t.equal((await refusal(t, `${ws}${prefix}/nonsense`)).status, 401)
        const health = await fetch(`${http}${prefix}/health`)
        t.equal(health.status, 200)
        t.match(await health.json(), { status: 'ok', listener: { status: 'up' } })

        const slug = await fetch(`${http}/about`)
        t.same(await slug.json(), { slug: 'about', ws: false })
        t.equal(slug.headers.get('x-host'), 'hook')
        t.same(await (await fetch(`${http}/fails`)).json(), { handled: 'host failure' })
        const live = await open(t, `${ws}/live`)
        t.same(await live.received(1), ['from the host'])
        t.equal((await fastify.pg.query('select 1 as one')).rows[0].one, 1)
        const jwt = fastify.jwt as unknown as Record<string, { sign: (claims: object) => string }>
        t.equal((await refusal(t, `${ws}${prefix}/chat/${jwt.host!.sign({ mode: 'rw' })}`)).status, 401)

        const closed = client.closed()
        await fastify.close()
        t.same(await closed, { code: 1001, reason: 'server shutting down' })
        t.notMatch(lines.join(''), /websocket upgrade failed/)
      }
    )
  }
}

t.test('ready() resolves after LISTEN has committed', async (t) => {
  for (let i = 0; i < 5; i++) {
    const fastify = Fastify() as FastifyInstance
    fastify.register(pgWebsockets, { dbUri, jwtSecret: SECRET })
    await fastify.ready()
    const got = new Promise((resolve) => fastify.pgws.subscribe('a', resolve))
    await notify(dbUri, text('a'))
    t.equal(await got, text('a'))
    await fastify.close()
  }
})

t.test('the decorator listens, subscribes, publishes, and lists connections and channels', async (t) => {
  const { fastify, ws } = await build(t, { dbUri })
  const { pgws } = fastify
  const raw: string[] = []
  const messages: string[] = []
  const stopListening = await pgws.listen('My "Channel"', (payload) => raw.push(payload))
  const unsubscribe = pgws.subscribe('chat', (message) => messages.push(message))
  pgws.subscribe('chat', () => {
    throw new Error('a mistake of the host')
  })
  const client = await open(t, `${ws}/chat/${rw}`)
  await notify(dbUri, 'one', 'My "Channel"')
  await pgws.publish('chat', { deep: true }, { sub: 'server' })
  await until(() => raw.length === 1 && messages.length === 1)
  t.match(JSON.parse(messages[0]!), { channel: 'chat', payload: { deep: true }, claims: { sub: 'server' } })
  t.same(await client.received(1), messages)
  t.same(pgws.channels(), [{ channel: 'chat', connections: 1, readers: 1, writers: 1 }])
  t.equal(pgws.listenerState.up, true)
  t.equal((await pgws.health()).status, 'ok')
  await stopListening()
  unsubscribe()
  await notify(dbUri, 'two', 'My "Channel"')
  await pgws.publish('chat', 'x')
  // It was sent after the others, on the same connection.
  await client.received(2)
  t.same([raw.length, messages.length], [1, 1])
  await t.rejects(
    pgws.listen('x'.repeat(64), () => {}),
    { code: 'FST_PGWS_BAD_MESSAGE' }
  )
  await t.rejects(pgws.publish('chat', 'x'.repeat(8000)), { code: 'FST_PGWS_PAYLOAD_TOO_LARGE' })
  await t.rejects(pgws.publish('chat', '\0'), { code: 'FST_PGWS_BAD_MESSAGE' })
  const circle: { self?: unknown } = {}
  circle.self = circle
  let deep: unknown = 'x'
  for (let depth = 0; depth < 100_000; depth++) deep = [deep]
  for (const payload of [undefined, () => 1, 1n, circle]) {
    await t.rejects(pgws.publish('chat', payload), { code: 'FST_PGWS_BAD_MESSAGE' })
  }
  // In newer versions of Node.js, JSON.stringify() has no limit of depth.
  await t.rejects(pgws.publish('chat', deep), { code: /^FST_PGWS_(BAD_MESSAGE|PAYLOAD_TOO_LARGE)$/ })
})

t.test('an invalid option is an error that names it and what it expects', async (t) => {
  const cases: [object, RegExp][] = [
    [{ dbUri: undefined }, /"dbUri" \(PGWS_DB_URI\) is required/],
    [{ jwtSecret: '' }, /"jwtSecret" \(PGWS_JWT_SECRET\) is required/],
    [{ poolSize: 0 }, /"poolSize" \(PGWS_POOL_SIZE\) must be a whole number from 1 to /],
    [{ poolSize: '5' }, /"poolSize"/],
    [{ jwtSecretBase64: 'yes' }, /"jwtSecretBase64" .* must be true or false/],
    [{ listenChannel: 'x'.repeat(64) }, /"listenChannel"/],
    [{ dbUri: 'postgresql://user:geheim@host:port/db' }, /"dbUri"/],
    [{ jwtSecret: '@/does/not/exist' }, /"jwtSecret" .* cannot be read/],
    [{ jwtSecret: '{"keys":[]}' }, /"jwtSecret"/],
    [{ listenChanel: 'x' }, /"listenChanel" is unknown/]
  ]
  for (const [options, expected] of cases) {
    const fastify = Fastify() as FastifyInstance
    fastify.register(pgWebsockets, { dbUri, jwtSecret: SECRET, ...options } as never)
    const error = await fastify.ready().then(
      () => undefined,
      (error) => error
    )
    t.match(error?.message, expected)
    t.notMatch(error?.message, /geheim/)
    await fastify.close()
  }
})

t.test('instances of one process are independent', async (t) => {
  const a = await build(t, { dbUri })
  const b = await build(t, { dbUri: await database() })
  const inA = await open(t, `${a.ws}/a/${rw}`)
  const inB = await open(t, `${b.ws}/a/${rw}`)
  await a.fastify.pgws.publish('a', 'x')
  await inA.received(1)
  await a.fastify.close()
  await b.fastify.pgws.publish('a', 'y')
  await inB.received(1)
  t.equal(inB.messages.length, 1)
})

t.test('the application_name distinguishes the listener from the publishing connections', async (t) => {
  const uri = await database()
  const { fastify } = await build(t, { dbUri: uri })
  await fastify.pgws.publish('a', 'x')
  const { rows } = await query(
    uri,
    'select application_name from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() order by 1'
  )
  t.same(
    rows.map((row) => row.application_name),
    ['fastify-pg-websockets listener', 'fastify-pg-websockets publisher']
  )
})

t.test('closing publishes received messages, and ends the connections', async (t) => {
  const uri = await database()
  const { fastify, ws } = await build(t, { dbUri: uri })
  const other = await build(t, { dbUri: uri })
  const reader = await open(t, `${other.ws}/a/${token({ mode: 'r' })}`)
  const client = await open(t, `${ws}/a/${rw}`)
  for (let i = 0; i < 100; i++) client.send(`${i}`)
  // At once, because everything counts that a client sent before it sees the close.
  await fastify.close()
  t.equal((await reader.received(100)).length, 100)
  await other.fastify.close()
  await until(async () => {
    const { rows } = await query(
      uri,
      "select count(*)::int as n from pg_stat_activity where datname = current_database() and application_name like 'fastify%'"
    )
    return rows[0].n === 0
  })
})

t.test('row 32: replaces a supervised listener that is lost, and sockets stay open', async (t) => {
  const { ws, lines } = await build(t, { dbUri, checkListenerInterval: 500 })
  const client = await open(t, `${ws}/a/${rw}`)
  await query(
    dbUri,
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listener' and datname = current_database()"
  )
  await until(() => lines.some((line) => line.includes('listening to the database again')))
  await notify(dbUri, text('a'))
  t.same(await client.received(1), [text('a')])
})

t.test('row 32: the check tests this connection, even if others listen, too', async (t) => {
  const uri = await database()
  const { fastify, ws, lines } = await build(t, { dbUri: uri, checkListenerInterval: 300 })
  const rival = await build(t, { dbUri: uri })
  const client = await open(t, `${ws}/a/${rw}`)
  await until(() => fastify.pgws.listenerState.lastProvenAlive! > fastify.pgws.listenerState.upSince!)
  t.ok(rival)
  // The connection is open, but its backend hangs. Neither an error nor an end ever arrives.
  const { rows } = await query(
    uri,
    "select pid from pg_stat_activity where application_name like '%listener' order by backend_start limit 1"
  )
  process.kill(rows[0].pid, 'SIGSTOP')
  t.teardown(() => {
    try {
      process.kill(rows[0].pid, 'SIGCONT')
    } catch {}
  })
  await until(() => lines.some((line) => line.includes('listening to the database again')))
  await notify(uri, text('a'))
  t.same(await client.received(1), [text('a')])
})

t.test('row 33: a lost listener without a supervisor closes the instance, and logs the reason', async (t) => {
  const uri = await database()
  const { fastify, lines, http } = await build(t, { dbUri: uri, checkListenerInterval: 0 })
  const lost = new Promise<Error>((resolve) => fastify.pgws.once('lost', resolve))
  const closed = new Promise((resolve) => fastify.server.once('close', resolve))
  await query(
    uri,
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listener' and datname = current_database()"
  )
  t.ok((await lost) instanceof Error)
  await closed
  await t.rejects(fetch(`${http}/health`))
  t.match(lines.join(''), /connection was lost, closing/)
})

t.test(
  'without a database, but with a supervisor: ready() resolves, health is 503, and it recovers',
  async (t) => {
    const uri = await database()
    postgres.kill('SIGQUIT')
    await postgres.exited
    const { http, ws } = await build(t, { dbUri: uri, readyTimeout: 1500 })
    t.equal((await fetch(`${http}/health`)).status, 503)
    await postgres.restart()
    await until(async () => (await fetch(`${http}/health`)).status === 200)
    const client = await open(t, `${ws}/a/${rw}`)
    await notify(uri, text('a'))
    await client.received(1)
  }
)

t.test(
  'row 31: without a database and a supervisor: retries PGWS_RETRIES times, then ready() rejects',
  async (t) => {
    const lines: string[] = []
    const fastify = Fastify({ logger: { stream: { write: (line) => lines.push(line) } } }) as FastifyInstance
    t.teardown(() => fastify.close())
    fastify.register(pgWebsockets, {
      dbUri: 'postgresql://nobody@127.0.0.1:1/none',
      jwtSecret: SECRET,
      checkListenerInterval: 0,
      retries: 2
    })
    await t.rejects(async () => fastify.ready(), {
      code: 'FST_PGWS_LISTENER_UNAVAILABLE',
      message: /ECONNREFUSED/
    })
    t.match(
      lines.filter((line) => line.includes('could not listen')),
      [/trying again in 1000 ms/, /in 2 attempts/]
    )
  }
)
