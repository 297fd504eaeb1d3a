import t from 'tap'
import { build, notify, open, query, token, until, withPostgres } from '../../support/helper.js'

const { database } = await withPostgres(t)

const real = Date.now
let offset = 0
Date.now = () => real() + offset
t.teardown(() => {
  Date.now = real
})

t.test('a clock that jumps back during an outage distorts neither the gap nor the metrics', async (t) => {
  t.teardown(() => {
    offset = 0
  })
  const dbUri = await database()
  const { fastify, http, ws, lines } = await build(t, { dbUri, checkListenerInterval: 500 })
  const gaps: number[] = []
  fastify.pgws.on('reconnected', ({ gap }) => gaps.push(gap))
  const client = await open(t, `${ws}/a/${token({ mode: 'rw' })}`)
  // After the loss of the listener has been noticed, and before it is back.
  const push = lines.push.bind(lines)
  lines.push = (...items) => {
    if (items.some((line) => line.includes("the listener's connection was lost"))) offset = -3_600_000
    return push(...items)
  }
  await query(
    dbUri,
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%listener' and datname = current_database()"
  )
  await until(() => gaps.length > 0)
  t.equal(offset, -3_600_000)
  t.ok(gaps[0]! >= 0, `a gap of ${gaps[0]} ms`)
  const metrics = await fetch(`${http}/metrics`)
  t.equal(metrics.status, 200)
  t.match(await metrics.text(), new RegExp(`pgws_listener_gap_seconds_total ${gaps[0]! / 1000}\n`))
  await notify(dbUri, '{"channel":"a"}')
  await client.received(1)
  client.send('x')
  await client.received(2)
})
