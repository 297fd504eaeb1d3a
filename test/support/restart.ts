import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { build, open, token, until } from './helper.js'
import { createDatabase, restartPostgres, testPostgres } from './postgres.js'

/** Stops PostgreSQL with a signal and starts it again. Checks that clients stay connected and that no message is lost. */
export async function survivesRestart(t: Test, signal: NodeJS.Signals): Promise<void> {
  let server = await testPostgres(t)
  const dbUri = await createDatabase(server)
  const { fastify, http, ws } = await build(t, { dbUri, checkListenerInterval: 300 })
  const client = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
  const writer = token({ mode: 'w' })
  const sender = await open(t, `${ws}/a/${writer}`)
  const pid = Number(readFileSync(join(server.dataFolder, 'postmaster.pid'), 'utf8').split('\n')[0])
  process.kill(pid, signal)
  await until(async () => (await fetch(`${http}/health`)).status === 503)
  const refused = await fetch(`${http}/publish`, {
    method: 'POST',
    headers: { authorization: `Bearer ${writer}`, 'content-type': 'application/json' },
    body: '{"channel":"a","payload":"lost"}'
  })
  t.equal(refused.status, 503)
  t.ok(Number(refused.headers.get('retry-after')) > 0)
  for (let i = 0; i < 100; i++) sender.send(`waiting ${i}`)
  server = await restartPostgres(t, server)
  await until(() => fastify.pgws.listenerState.up)
  // Waiting messages were sent once and in order; then everything continues as before.
  await client.received(100)
  sender.send('after')
  const got = (await client.received(101)).map((text) => JSON.parse(text).payload)
  t.same(got, [...Array.from({ length: 100 }, (_, i) => `waiting ${i}`), 'after'])
  t.equal((await fetch(`${http}/health`)).status, 200)
  t.equal(client.webSocket.readyState, 1)
  t.equal(sender.webSocket.readyState, 1)
}
