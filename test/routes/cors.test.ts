import fastifyCors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { build, token, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const allowedOrigins = ['https://page.example']
const address = `/chat/${token({ mode: 'rw' })}`

/** Sends a preflight request. */
async function preflight(url: string, origin = allowedOrigins[0]!) {
  const { status, headers } = await fetch(url, {
    method: 'OPTIONS',
    headers: {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type'
    }
  })
  return { status, headers: Object.fromEntries(headers) }
}

t.test("answers preflight requests only at the plugin's addresses", async (t) => {
  for (const [prefix, shared] of [
    ['', ['/', address]],
    ['/realtime', ['/', '/chat/no-token', address]]
  ] as const) {
    const { http, lines } = await build(
      t,
      { dbUri, allowedOrigins, prefix },
      { after: (fastify) => void fastify.post('/orders', async () => 'of the host') }
    )
    const named = ['/publish', '/connections', '/channels/a%2Fb/history', '/emulation', '/connection/sse']
    for (const path of [...named, ...shared, `/connection/sse?cf_connect=${address.slice(6)}`]) {
      const answer = await preflight(http + prefix + path)
      t.match(
        answer,
        {
          status: 204,
          headers: {
            'access-control-allow-origin': allowedOrigins[0],
            'access-control-allow-methods': 'GET, POST, DELETE',
            'access-control-allow-headers': 'authorization,content-type',
            vary: 'Origin, Access-Control-Request-Headers'
          }
        },
        `${prefix}${path.slice(0, 12)}`
      )
      const refused = await preflight(http + prefix + path, 'https://evil.example')
      t.equal(refused.status, 403)
      t.equal(refused.headers['access-control-allow-origin'], undefined)
    }
    for (const path of ['/orders', '/nothing', '/nothing/here']) {
      t.equal((await preflight(http + path)).status, 404, path)
    }
    t.notMatch(lines.join(''), address.slice(6, 60))
  }
})

t.test("keeps a host's answers, at its own addresses and at shared ones", async (t) => {
  const hosts: Record<string, (fastify: FastifyInstance) => unknown> = {
    '@fastify/cors': (fastify) => fastify.register(fastifyCors, { origin: 'https://host.example' }),
    'a catch-all route': (fastify) =>
      fastify.all('*', async (_request, reply) =>
        reply.header('access-control-allow-origin', 'https://host.example').code(204).send()
      )
  }
  for (const [name, host] of Object.entries(hosts)) {
    for (const order of ['before', 'after'] as const) {
      const { http } = await build(t, { dbUri, allowedOrigins }, { [order]: host })
      for (const path of ['/orders', '/', address]) {
        const { status, headers } = await preflight(http + path)
        t.same(
          [status, headers['access-control-allow-origin']],
          [204, 'https://host.example'],
          `${order} ${name} ${path.slice(0, 8)}`
        )
      }
      const hooked = name === '@fastify/cors' && order === 'before'
      t.equal(
        (await preflight(`${http}/publish`)).headers['access-control-allow-origin'],
        hooked ? 'https://host.example' : allowedOrigins[0]
      )
      // The plugin does not answer other OPTIONS requests.
      const plain = await fetch(`${http}/publish`, { method: 'OPTIONS' })
      t.equal(plain.status, name === '@fastify/cors' ? 400 : 204)
    }
  }
})

t.test("Vary contains the headers of a host's own hook, too", async (t) => {
  const { http } = await build(
    t,
    { dbUri, allowedOrigins },
    {
      before: (fastify) =>
        void fastify.addHook('onRequest', async (_request, reply) => {
          reply.header('vary', 'accept-language')
        })
    }
  )
  const { headers } = await fetch(`${http}/health`, { headers: { origin: allowedOrigins[0]! } })
  t.equal(headers.get('vary'), 'accept-language, Origin')
  t.equal(headers.get('access-control-allow-origin'), allowedOrigins[0])
  t.equal((await fetch(`${http}/health`)).headers.get('access-control-allow-origin'), null)
})
