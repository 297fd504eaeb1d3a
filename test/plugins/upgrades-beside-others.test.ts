import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import fastifyWebsocket from '@fastify/websocket'
import type { FastifyInstance } from 'fastify'
import { Server } from 'socket.io'
import { io } from 'socket.io-client'
import t, { type Test } from 'tap'
import { type ClientOptions, WebSocket, WebSocketServer } from 'ws'
import { build, open, refusal, token, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const rw = token({ mode: 'rw' })

/** Other users of the server's event `upgrade`: how they are set up, and how to test one of their clients. */
const others: Record<
  string,
  { use: (fastify: FastifyInstance) => unknown; hear: (t: Test, ws: string) => Promise<unknown> }
> = {
  'Socket.IO': {
    use(fastify) {
      const server = new Server(fastify.server, { transports: ['websocket'] })
      server.on('connection', (socket) => socket.emit('hello', 'from the other'))
      // This closes the HTTP server, too.
      fastify.addHook('preClose', async () => void server.disconnectSockets(true))
    },
    async hear(t, ws) {
      const socket = io(ws.replace('ws:', 'http:'), { transports: ['websocket'], reconnection: false })
      t.teardown(() => socket.disconnect())
      return new Promise((resolve, reject) => {
        socket.on('hello', resolve)
        socket.on('connect_error', reject)
      })
    }
  },
  'Socket.IO that begins with polling': {
    use(fastify) {
      const server = new Server(fastify.server)
      // Messages before the change of transport do not count.
      server.on('connection', (socket) => {
        socket.conn.once('upgrade', () => socket.emit('hello', 'from the other'))
      })
      fastify.addHook('preClose', async () => void server.disconnectSockets(true))
    },
    async hear(t, ws) {
      const socket = io(ws.replace('ws:', 'http:'), { reconnection: false })
      t.teardown(() => socket.disconnect())
      return new Promise((resolve, reject) => {
        socket.on('hello', resolve)
        socket.on('connect_error', reject)
      })
    }
  },
  'a server of ws with a path': {
    use(fastify) {
      const server = new WebSocketServer({ server: fastify.server, path: '/other' })
      greet(fastify, server)
    },
    hear: (t, ws) => greeting(t, `${ws}/other`)
  },
  "a development server's reload, recognized by its subprotocol": {
    use(fastify) {
      const server = new WebSocketServer({ noServer: true })
      greet(fastify, server)
      fastify.server.on('upgrade', (request: IncomingMessage, socket, head) => {
        if (request.headers['sec-websocket-protocol'] !== 'vite-hmr') return
        server.handleUpgrade(request, socket, head, (webSocket) =>
          server.emit('connection', webSocket, request)
        )
      })
    },
    // A browser sends the plugin's cookie, too.
    hear: (t, ws) => greeting(t, `${ws}/?token=dev`, 'vite-hmr', { headers: { cookie: `token=${rw}` } })
  },
  'one that looks first whether it may': {
    use(fastify) {
      const server = new WebSocketServer({ noServer: true })
      greet(fastify, server)
      fastify.server.on('upgrade', async (request: IncomingMessage, socket, head) => {
        if (!request.url!.startsWith('/checked/')) return
        await sleep(50)
        server.handleUpgrade(request, socket, head, (webSocket) =>
          server.emit('connection', webSocket, request)
        )
      })
    },
    hear: (t, ws) => greeting(t, `${ws}/checked/chat`)
  },
  '@fastify/websocket': {
    async use(fastify) {
      await fastify.register(fastifyWebsocket)
      fastify.register(async (scope) => {
        scope.get('/live', { websocket: true }, (webSocket) => webSocket.send('from the other'))
      })
    },
    hear: (t, ws) => greeting(t, `${ws}/live`)
  }
}

function greet(fastify: FastifyInstance, server: WebSocketServer): void {
  server.on('connection', (webSocket) => webSocket.send('from the other'))
  fastify.addHook('preClose', async () => {
    for (const client of server.clients) client.terminate()
  })
}

async function greeting(t: Test, url: string, protocol?: string, options?: ClientOptions): Promise<string> {
  const webSocket = new WebSocket(url, protocol, options)
  t.teardown(() => webSocket.terminate())
  const [data] = await once(webSocket, 'message')
  return String(data)
}

for (const [name, { use, hear }] of Object.entries(others)) {
  for (const order of ['before', 'after'] as const) {
    for (const prefix of ['', '/realtime']) {
      t.test(`beside ${name}, registered ${order} us, with the prefix "${prefix}"`, async (t) => {
        const { fastify, ws } = await build(
          t,
          {
            dbUri,
            prefix,
            tokenCookie: 'token',
            allowedOrigins: ['http://localhost'],
            shutdownTimeout: 1000
          },
          { [order]: use }
        )
        t.equal(await hear(t, ws), 'from the other')
        const ways: [string, ClientOptions?][] = [
          [`/chat/${rw}`],
          [`/${token({ mode: 'r', channel: 'chat' })}?x`],
          ['/?channel=chat', { headers: { authorization: `Bearer ${rw}` } }],
          ['/?channel=chat', { headers: { cookie: `token=${rw}`, origin: 'http://localhost' } }]
        ]
        for (const [url, options] of ways) {
          const client = await open(t, `${ws}${prefix}${url}`, options)
          await fastify.pgws.publish('chat', 'ours')
          t.match((await client.received(1))[0], /ours/)
          client.webSocket.close()
          await client.closed()
        }
        const offered = new WebSocket(`${ws}${prefix}/?channel=chat`, ['pgws', `bearer.${rw}`])
        await once(offered, 'open')
        offered.close()
        const sdk = new WebSocket(`${ws}${prefix}/connection/websocket`)
        await once(sdk, 'open')
        sdk.close()
        // The plugin rejects what looks like one of its clients.
        t.equal((await refusal(t, `${ws}${prefix}/chat/${rw.slice(0, -3)}`)).status, 401)
        t.equal(await hear(t, ws), 'from the other')
      })
    }
  }
}
