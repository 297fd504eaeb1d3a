import fastifyJwt from '@fastify/jwt'
import { Centrifuge, type TransportEndpoint } from 'centrifuge'
import pg from 'pg'
import t from 'tap'
import { WebSocket } from 'ws'
import { migrate } from '../../../../lib/schema/migrate.js'
import { build, LISTEN_CHANNEL, SECRET, token, until, withPostgres } from '../../../support/helper.js'
import { snippet } from '../../../support/pages.js'
import { runFragment } from '../../../support/run-fragment.js'
import { PROTOBUF_SDK } from '../../../support/sdk.js'
import { BROWSER } from '../../../support/streams.js'

const { database } = await withPostgres(t)

t.test('docs/client-sdks.md: the browser code and the token endpoint work as printed', async (t) => {
  const browser = snippet('docs/client-sdks.md', 'room.presence()')
  const endpoint = snippet('docs/client-sdks.md', "get('/token'")
  const dbUri = await database()
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  await migrate(client, LISTEN_CHANNEL)
  await client.query(snippet('docs/client-sdks.md', 'pgws.retain('))
  const { fastify, port } = await build(
    t,
    { dbUri, presenceChannels: 'room:*' },
    { before: (fastify) => runFragment(endpoint, { fastify, fastifyJwt, jwtSecret: SECRET }) }
  )

  const sockets: WebSocket[] = []
  class Recorded extends WebSocket {
    constructor(url: string) {
      super(url)
      sockets.push(this)
    }
  }
  const clients: Centrifuge[] = []
  class Local extends Centrifuge {
    constructor(url: string, options: object) {
      const local = url.replace('wss://example.org', `ws://127.0.0.1:${port}`)
      super(local, { ...options, websocket: Recorded, minReconnectDelay: 50 })
      clients.push(this)
    }
  }
  t.teardown(() => {
    for (const one of clients) one.disconnect()
  })
  const shown: unknown[] = []
  let there = new Set<string>()
  let reloads = 0
  await runFragment(browser, {
    Centrifuge: Local,
    fetch: (path: string) => fetch(`http://127.0.0.1:${port}${path}`),
    show: (data: unknown) => shown.push(data),
    reload: () => reloads++,
    setMembers: (clients: { client: string }[]) => {
      there = new Set(clients.map(({ client }) => client))
    },
    addMember: ({ client }: { client: string }) => there.add(client),
    removeMember: ({ client }: { client: string }) => there.delete(client)
  })
  await until(() => there.size === 1)
  await fastify.pgws.publish('room:7', 1)
  await until(() => shown.length === 1)
  sockets[0]!.terminate()
  await client.query(`select pgws.publish('room:7', '2')`)
  await until(() => shown.length === 2)
  t.same(shown, [1, 2])
  t.equal(reloads, 0)
  await until(async () => there.size === 1 && (await fastify.pgws.presence('room:7')).count === 1)
})

t.test('docs/client-sdks.md: where websockets are blocked, the SDK falls back to HTTP', async (t) => {
  const { port, fastify } = await build(t, { dbUri: await database() })
  const code = snippet('docs/client-sdks.md', 'emulationEndpoint')
    // A port without websockets.
    .replace('wss://example.org', 'ws://127.0.0.1:1')
    .replaceAll('https://example.org', `http://127.0.0.1:${port}`)
  class Local extends Centrifuge {
    constructor(transports: TransportEndpoint[], options: object) {
      super(transports, { ...options, websocket: WebSocket, ...BROWSER })
    }
  }
  const fallback = (await runFragment(
    code,
    { Centrifuge: Local, fetch: async () => new Response(token({ mode: 'rw', channels: ['chat'] })) },
    'client'
  )) as Centrifuge
  t.teardown(() => fallback.disconnect())
  const got: unknown[] = []
  const chat = fallback.newSubscription('chat')
  chat.on('publication', ({ data }) => got.push(data))
  chat.subscribe()
  await until(() => fastify.pgws.channels().length === 1)
  await chat.publish('over HTTP')
  await until(() => got.length === 1)
  t.same(got, ['over HTTP'])
})

t.test('docs/client-sdks.md: an SDK that speaks protobuf receives bytes', async (t) => {
  const { port } = await build(t, { dbUri: await database() })
  const code = snippet('docs/client-sdks.md', 'new TextEncoder()')
  class Local extends PROTOBUF_SDK {
    constructor(url: string, options: object) {
      const local = url.replace('wss://example.org', `ws://127.0.0.1:${port}`)
      super(local, { ...options, websocket: WebSocket } as never)
      t.teardown(() => this.disconnect())
    }
  }
  const shown: unknown[] = []
  const fetch = async () => new Response(token({ mode: 'rw' }))
  await runFragment(code, { Centrifuge: Local, fetch, show: (data: unknown) => shown.push(data) })
  await until(() => shown.length === 1)
  t.same(shown, [{ text: 'hello' }])
})
