import type { FastifyInstance } from 'fastify'
import t from 'tap'
import pgWebsockets, { type Bridge } from '../../index.js'
import { build, notify, open, refusal, SECRET, token, withPostgres } from '../support/helper.js'

const { database } = await withPostgres(t)
const OTHER_SECRET = 'another secret, of the second registration'
const rw = token({ mode: 'rw' })

const text = (channel: string, payload: string) => JSON.stringify({ channel, payload })
const orders = (fastify: FastifyInstance) => (fastify as unknown as { orders: Bridge }).orders

t.test('two databases in one application, each with a decorator and a prefix', async (t) => {
  const [first, second] = [await database(), await database()]
  const { fastify, ws, http } = await build(
    t,
    { dbUri: first },
    {
      after: (host) =>
        host.register(pgWebsockets, {
          dbUri: second,
          jwtSecret: OTHER_SECRET,
          decorator: 'orders',
          prefix: '/orders'
        })
    }
  )
  const ordersToken = token({ mode: 'rw' }, OTHER_SECRET)
  const client = await open(t, `${ws}/chat/${rw}`)
  const other = await open(t, `${ws}/orders/chat/${ordersToken}`)
  t.equal((await refusal(t, `${ws}/orders/chat/${rw}`)).status, 401, "the first one's token is none here")
  await notify(first, text('chat', 'first'))
  await notify(second, text('chat', 'second'))
  t.same(await client.received(1), [text('chat', 'first')])
  t.same(await other.received(1), [text('chat', 'second')])

  await orders(fastify).publish('chat', 'by the decorator')
  t.equal(JSON.parse((await other.received(2))[1]!).payload, 'by the decorator')
  client.send('of the first')
  t.equal(JSON.parse((await client.received(2))[1]!).payload, 'of the first')
  t.equal((await fetch(`${http}/health`)).status, 200)
  t.equal((await fetch(`${http}/orders/health`)).status, 200)

  const closed = [client.closed(), other.closed()]
  await fastify.close()
  t.match(await Promise.all(closed), [{ code: 1001 }, { code: 1001 }])
})

t.test('a second registration without its own name is an error that says what to do', async (t) => {
  const dbUri = await database()
  const again = { dbUri, jwtSecret: SECRET, prefix: '/again' }
  const refused = build(t, { dbUri }, { after: (host) => host.register(pgWebsockets, again) })
  await t.rejects(refused, {
    code: 'FST_PGWS_INVALID_OPTION',
    message: /option "decorator".*its own decorator and prefix/
  })
  await t.rejects(build(t, { dbUri, decorator: '' }), { message: /option "decorator" must be the name/ })
})

t.test('a scope can have its own registration, whatever the outer scopes have', async (t) => {
  const [first, second] = [await database(), await database()]
  let inner: FastifyInstance | undefined
  const { fastify, ws } = await build(
    t,
    { dbUri: first },
    {
      after: (host) =>
        host.register(async (scope) => {
          inner = scope
          await scope.register(pgWebsockets, { dbUri: second, jwtSecret: SECRET, prefix: '/scope' })
        })
    }
  )
  t.not(inner!.pgws, fastify.pgws)
  const client = await open(t, `${ws}/scope/chat/${rw}`)
  await inner!.pgws.publish('chat', 'within')
  t.equal(JSON.parse((await client.received(1))[0]!).payload, 'within')
})
