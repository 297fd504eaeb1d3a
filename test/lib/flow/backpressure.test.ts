import t from 'tap'
import { build, open, query, token, until, withOwnPostgres } from '../../support/helper.js'

t.test(
  'pauses reading from senders while the database is slow; nothing is dropped or reordered',
  async (t) => {
    const { database } = await withOwnPostgres(t)
    const dbUri = await database()
    const { ws, http, fastify } = await build(t, { dbUri })
    const reader = await open(t, `${ws}/a/${token({ mode: 'r' })}`)
    const writer = await open(t, `${ws}/a/${token({ mode: 'w' })}`)
    await fastify.pgws.publish('a', 'first')
    await reader.received(1)

    const { rows } = await query(
      dbUri,
      "select pid from pg_stat_activity where application_name like '%publisher' and datname = current_database()"
    )
    t.equal(rows.length, 1)
    process.kill(rows[0].pid, 'SIGSTOP')
    t.teardown(() => {
      try {
        process.kill(rows[0].pid, 'SIGCONT')
      } catch {}
    })
    // Some 40 MB: more than the queue and the socket buffers hold.
    const count = 20_000
    for (let i = 0; i < count; i++) writer.send(`${i} ${'x'.repeat(2000)}`)
    const metrics = async () => (await fetch(`${http}/metrics`)).text()
    await until(async () => /pgws_paused_sockets 1\n/.test(await metrics()))
    t.ok(writer.webSocket.bufferedAmount > 10_000_000, 'the sender keeps what is not read')
    t.ok(Number(/pgws_messages_received_total (\d+)/.exec(await metrics())![1]) < count / 2)
    process.kill(rows[0].pid, 'SIGCONT')
    await until(() => reader.messages.length === count + 1)
    const numbers = reader.messages.slice(1).map((text) => Number(JSON.parse(text).payload.split(' ')[0]))
    t.same(
      numbers,
      Array.from({ length: count }, (_, i) => i)
    )
  }
)
