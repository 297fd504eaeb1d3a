import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, test } from 'node:test'
import { embedded, injectWS } from 'fastify-pg-websockets/testing'
import { buildApp } from './app.js'

const database = await embedded.start()
const app = await buildApp({
  dbUri: database.url,
  jwtSecret: 'a secret of at least 32 bytes, please',
  sessionSecret: 'another one of at least 32 bytes, please'
})
after(async () => {
  await app.close()
  await database.stop()
})

const login = (name, password) => app.inject({ method: 'POST', url: '/login', payload: { name, password } })

/** What a browser sends after it has logged in. */
async function sessionOf(name) {
  const [{ name: cookie, value }] = (await login(name, `${name}-demo`)).cookies
  return { [cookie]: value }
}

const tokenOf = async (name) => (await app.inject({ url: '/token', cookies: await sessionOf(name) })).body

test('without a session there is no token', async () => {
  assert.equal((await app.inject('/token')).statusCode, 401)
  assert.equal((await login('alice', 'wrong')).statusCode, 401)
  assert.equal((await login('nobody', 'nobody-demo')).statusCode, 401)
})

test('a user receives what is published in their room', async () => {
  const socket = await injectWS(app, `/room:staff/${await tokenOf('alice')}`)
  // Listened for before it is sent: it may come before the answer that it was published.
  const received = once(socket, 'message')
  await app.pgws.publish('room:staff', 'hello')
  const [message] = await received
  assert.equal(JSON.parse(message).payload, 'hello')
})

test('the rooms of others are closed', async () => {
  await assert.rejects(injectWS(app, `/room:staff/${await tokenOf('bob')}`), /403/)
})

test('logging out ends what is open', async () => {
  const cookies = await sessionOf('alice')
  const { body: token } = await app.inject({ url: '/token', cookies })
  const socket = await injectWS(app, `/room:lobby/${token}`)
  const closed = once(socket, 'close')
  await app.inject({ method: 'POST', url: '/logout', cookies })
  assert.equal((await closed)[0], 4001)
  assert.equal((await app.inject({ url: '/token', cookies })).statusCode, 401)
})
