import { METHODS, request } from 'node:http'
import { text } from 'node:stream/consumers'
import fastifyCors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { WebSocketServer } from '../../lib/protocols/websocket/server.js'
import { build, open, token, until, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const rw = token({ mode: 'rw' })

/** The answer to a request with any method. */
function ask(port: number, method: string, path: string, headers: Record<string, string> = {}) {
  return new Promise<{ status: number; headers: object; body: string }>((resolve, reject) => {
    const sent = request(
      { port, host: '127.0.0.1', method, path, headers, agent: false },
      async (response) => {
        resolve({ status: response.statusCode!, headers: response.headers, body: await text(response) })
      }
    )
    sent.on('error', reject)
    sent.end()
  })
}

const commands = encodeURIComponent(JSON.stringify({ connect: { token: rw }, id: 1 }))

for (const prefix of ['', '/realtime']) {
  t.test(
    `no method brings a token into the log or the answer of a host, with the prefix "${prefix}"`,
    async (t) => {
      const { port, lines } = await build(t, { dbUri, prefix })
      const paths = [
        `/a/${rw}`,
        `/${rw}?since=earliest`,
        `/a/b/c/${rw}`,
        `/%/${rw}`,
        `/?token=${rw}`,
        `/connection/sse?cf_connect=${commands}`,
        `/connection/websocket?token=${rw}`,
        `/health/${rw}`,
        `/channels/${rw}/history`
      ]
      const kinds: Record<string, string>[] = [
        {},
        { accept: 'text/event-stream' },
        // Without "Connection: Upgrade", which would make it an upgrade.
        { upgrade: 'websocket' }
      ]
      const asked: string[] = []
      for (const method of METHODS) {
        if (method === 'CONNECT') continue
        for (const path of paths) {
          for (const headers of kinds) {
            // Streams that are accepted do not end.
            const stream = /^\/(?:a|health|channels)\/eyJ/.test(path)
              ? headers.accept
              : path.includes('cf_connect') && !headers.upgrade
            if (method === 'GET' && stream) continue
            asked.push(`${method} ${path}`)
            const answer = await ask(port, method, prefix + path, headers)
            t.notMatch(JSON.stringify(answer), /eyJ/, `${method} ${path.replaceAll(rw, '…')}`)
          }
        }
      }
      t.same(
        lines.filter((line) => line.includes('eyJ')),
        []
      )
      t.ok(asked.length > 500 && lines.length > asked.length / 2)
    }
  )
}

t.test("keeps a host's answers to preflight requests, and its own addresses with tokens", async (t) => {
  const jwt = `${rw}`
  for (const order of ['before', 'after'] as const) {
    const seen: unknown[] = []
    const host = async (fastify: FastifyInstance) => {
      await fastify.register(fastifyCors, { origin: 'http://page.example' })
      fastify.post('/confirm/:jwt', async ({ params }) => seen.push(params))
    }
    const { port, lines } = await build(
      t,
      { dbUri },
      { [order]: host, server: { routerOptions: { maxParamLength: 1000 } } }
    )
    const headers = { origin: 'http://page.example', 'access-control-request-method': 'POST' }
    for (const path of [`/confirm/${jwt}`, `/chat/${jwt}`]) {
      const preflight = await ask(port, 'OPTIONS', path, headers)
      t.equal(preflight.status, 204, `${order} ${path.slice(0, 8)}`)
      t.match(preflight.headers, { 'access-control-allow-origin': 'http://page.example' })
    }
    t.same(
      lines.filter((line) => line.includes('eyJ')),
      []
    )
    t.equal((await ask(port, 'POST', `/confirm/${jwt}`)).status, 200)
    t.same(seen, [{ jwt }])
  }
})

t.test('errors after a stream or websocket was accepted are logged without the token', async (t) => {
  // A header that Node.js rejects.
  const badHeader = (fastify: FastifyInstance) => {
    fastify.addHook('onRequest', async (request, reply) => {
      if (request.headers['x-bad']) reply.header('x-name', 'é\n')
    })
  }
  const { port, lines, fastify, ws } = await build(t, { dbUri }, { before: badHeader })
  const failures = () => lines.filter((line) => line.includes('could not serve a client'))
  const headers = { accept: 'text/event-stream', 'x-bad': 'yes' }
  await t.rejects(ask(port, 'GET', `/a/${rw}`, headers))
  await t.rejects(ask(port, 'GET', `/connection/sse?cf_connect=${commands}`, headers))
  await until(() => failures().length === 2)

  // A listener of the application throws while a client is accepted.
  const { connect } = WebSocketServer.prototype
  WebSocketServer.prototype.connect = () => {
    throw new Error(`a mistake with ${rw}`)
  }
  t.teardown(() => Object.assign(WebSocketServer.prototype, { connect }))
  const refused = await open(t, `${ws}/a/${rw}`)
  t.equal((await refused.closed()).code, 1006)
  WebSocketServer.prototype.connect = connect
  await until(() => failures().length === 3)
  t.match(failures()[2], /a mistake with \*\*\*/)
  t.match(failures()[0], /"url":"\/a\/\*\*\*"/)
  t.same(
    lines.filter((line) => line.includes('eyJ')),
    []
  )
  t.same(await fastify.pgws.connections(), [])
})
