import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fastifyJwt from '@fastify/jwt'
import { Centrifuge } from 'centrifuge'
import pg from 'pg'
import t from 'tap'
import { WebSocket } from 'ws'
import { migrate } from '../../lib/schema/migrate.js'
import { build, LISTEN_CHANNEL, SECRET, until, withPostgres } from '../helper.js'
import { root } from '../root.js'

const { database } = await withPostgres(t)
const page = readFileSync(join(root, 'docs/client-sdks.md'), 'utf8')
const blocks = [...page.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code!)
const AsyncFunction = (async () => {}).constructor as FunctionConstructor

t.test("docs/client-sdks.md's browser and token endpoint work as they stand", async (t) => {
  const browser = blocks.find((code) => code.includes('new Centrifuge'))!.replace(/^import .*\n/, '')
  const endpoint = blocks.find((code) => code.includes("get('/token'"))!
  const dbUri = await database()
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  await migrate(client, LISTEN_CHANNEL)
  await client.query(`select pgws.retain('room:*', interval '1 day')`)
  process.env.JWT_SECRET = SECRET
  const { fastify, port } = await build(
    t,
    { dbUri, presenceChannels: 'room:*' },
    { before: (fastify) => AsyncFunction('fastify', 'fastifyJwt', endpoint)(fastify, fastifyJwt) }
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
  await AsyncFunction(
    'Centrifuge',
    'fetch',
    'show',
    'reload',
    'here',
    'came',
    'left',
    browser
  )(
    Local,
    (path: string) => fetch(`http://127.0.0.1:${port}${path}`),
    (data: unknown) => shown.push(data),
    () => reloads++,
    (clients: { client: string }[]) => {
      there = new Set(clients.map(({ client }) => client))
    },
    ({ client }: { client: string }) => there.add(client),
    ({ client }: { client: string }) => there.delete(client)
  )
  await until(() => there.size === 1)
  await fastify.pgws.publish('room:7', 1)
  await until(() => shown.length === 1)
  sockets[0]!.terminate()
  await client.query(`select pgws.publish('room:7', '2')`)
  await until(() => shown.length === 2)
  t.same(shown, [1, 2])
  t.equal(reloads, 0)
  await until(() => there.size === 1 && fastify.pgws.presence('room:7').count === 1)
})
