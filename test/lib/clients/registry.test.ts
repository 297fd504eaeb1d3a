import t from 'tap'
import type { Connection } from '../../../lib/clients/connections/connection.js'
import { ConnectionRegistry } from '../../../lib/clients/connections/registry.js'
import { stoppedClock } from '../../support/clock.js'

/** The part of a connection that `ConnectionRegistry` uses; it records the calls. */
function connection(
  calls: string[],
  { answers = true, expiresAt }: { answers?: boolean; expiresAt?: number } = {}
) {
  let all: ConnectionRegistry | undefined
  const self = {
    pingGroup: 0,
    expiresAt,
    ping: () => calls.push('ping'),
    goAway(code: number, reason: string) {
      calls.push(`${code} ${reason}`)
      if (answers) all!.delete(self as unknown as Connection)
    },
    expire() {
      calls.push('expired')
      all!.delete(self as unknown as Connection)
    },
    terminate() {
      calls.push('terminated')
      all!.delete(self as unknown as Connection)
    }
  }
  return {
    addTo(connections: ConnectionRegistry) {
      all = connections
      connections.add(self as unknown as Connection)
    }
  }
}

t.test('pings each connection every 30 seconds, spread over the seconds', async (t) => {
  const { forward } = stoppedClock(t)
  const connections = new ConnectionRegistry()
  const all = Array.from({ length: 90 }, (): string[] => [])
  for (const calls of all) connection(calls).addTo(connections)
  const pings = () => all.map(({ length }) => length)
  for (let second = 1; second <= 30; second++) {
    await forward(1000)
    t.equal(
      pings().reduce((sum, count) => sum + count, 0),
      3 * second
    )
  }
  t.same(
    pings(),
    all.map(() => 1)
  )
  await forward(30_000)
  t.same(
    pings(),
    all.map(() => 2)
  )
  const closing = connections.close(1000)
  await forward(1100)
  await closing
})

t.test('spreads the closes of a shutdown, and terminates connections that do not answer', async (t) => {
  const { forward } = stoppedClock(t)
  const connections = new ConnectionRegistry()
  const closes: string[] = []
  for (let i = 0; i < 599; i++) connection(closes).addTo(connections)
  const silent: string[] = []
  connection(silent, { answers: false }).addTo(connections)
  let over = false
  const closing = connections.close(5000).then(() => {
    over = true
  })
  // A thousand a second.
  for (let time = 0; time < 500; time += 100) {
    t.ok(closes.length <= time + 20, `${closes.length} after ${time} ms`)
    t.ok(closes.length >= time, `${closes.length} after ${time} ms`)
    await forward(100)
  }
  await forward(200)
  t.same(new Set(closes), new Set(['1001 server shutting down']))
  t.equal(closes.length, 599)
  t.same(silent, ['1001 server shutting down'])
  await forward(4200)
  t.same([over, silent.length], [false, 1])
  await forward(200)
  t.same(silent, ['1001 server shutting down', 'terminated'])
  await closing
})

t.test('a connection ends in the second in which its token expires, however far away that is', async (t) => {
  const { forward } = stoppedClock(t)
  const connections = new ConnectionRegistry()
  const at = (seconds: number) => Date.now() + seconds * 1000
  const soon: string[] = []
  const later: string[] = []
  const never: string[] = []
  connection(soon, { expiresAt: at(2) }).addTo(connections)
  connection(later, { expiresAt: at(60) }).addTo(connections)
  // Longer than a timer can run.
  connection(never, { expiresAt: at(1000 * 365 * 86_400) }).addTo(connections)
  await forward(1900)
  t.same(soon, [])
  await forward(1100)
  t.same(soon, ['expired'])
  await forward(10_000)
  t.notOk(later.includes('expired'))
  await forward(48_000)
  t.ok(later.includes('expired'))
  t.notOk(never.includes('expired'))
  const closing = connections.close(1000)
  await forward(1100)
  await closing
})
