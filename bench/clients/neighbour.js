// An ordinary client that measures how long it waits: for pongs, a health check, its own messages.
import { once } from 'node:events'
import { Agent, get } from 'node:http'
import { WebSocket } from 'ws'

/** The pause between two of a kind, in milliseconds. */
const INTERVAL = 10
const agent = new Agent({ keepAlive: true })

/** Repeats something, and records how long each took, in milliseconds. */
async function measure(until, act) {
  const waits = []
  while (performance.now() < until) {
    const begun = performance.now()
    await act()
    const waited = performance.now() - begun
    waits.push(waited)
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, INTERVAL - waited)))
  }
  return waits
}

process.on('message', async ({ port, path, seconds }) => {
  const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`)
  await once(socket, 'open')
  const acts = {
    async ping() {
      socket.ping()
      await once(socket, 'pong')
    },
    health: () =>
      new Promise((resolve, reject) => {
        get({ port, path: '/health/live', agent }, (response) => response.resume().on('end', resolve)).on(
          'error',
          reject
        )
      }),
    async delivery() {
      socket.send('hello')
      await once(socket, 'message')
    }
  }
  // What is slow only the first time does not count.
  await Promise.all(Object.values(acts).map((act) => measure(performance.now() + 500, act)))
  const end = performance.now() + seconds * 1000
  const waits = await Promise.all(
    Object.entries(acts).map(async ([name, act]) => [name, await measure(end, act)])
  )
  process.send(Object.fromEntries(waits))
})
process.on('disconnect', () => process.exit())
