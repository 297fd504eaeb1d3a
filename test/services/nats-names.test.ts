import t from 'tap'
import { everyReader } from '../support/every-reader.js'
import { open, query, token, until, withPostgres } from '../support/helper.js'
import { NatsServer } from '../support/nats.js'
import { natsNode } from '../support/nats-nodes.js'

const { migrated } = await withPostgres(t)
const nats = await NatsServer.start(t)

/** Names in which something has a meaning for NATS, or might have in what is made of them. */
const NAMES = [
  'a',
  'A',
  '.',
  '..',
  'a.b',
  'a.',
  '.a',
  '*',
  'a.*',
  '>',
  'a.>',
  '$SYS.REQ.SERVER.PING',
  '_INBOX.a',
  ' ',
  'a b',
  ' a',
  'a ',
  'a\tb',
  'a\r\nPUB b 0',
  'a\n',
  '"a"',
  '\\',
  '%',
  'ä→🙂',
  'a\u0308',
  'ä',
  '\u202ea',
  '\u0001',
  '\ufeff',
  '-_',
  '=',
  'x'.repeat(1000),
  'x'.repeat(1001),
  'x'.repeat(1023),
  'x'.repeat(1024),
  `${'x'.repeat(1023)}y`,
  'ü'.repeat(512),
  '🙂'.repeat(256)
]

for (const [kind, prefix] of [
  ['durable', '**'],
  ['not durable', 'none of them']
] as const) {
  t.test(`a channel can have any name: ${kind}`, async (t) => {
    const dbUri = await migrated(prefix)
    const apps = [await natsNode(t, nats, { dbUri }), await natsNode(t, nats, { dbUri })]
    const readers = await everyReader(t, apps[1]!, NAMES)
    const senders = await Promise.all(
      NAMES.map((name) =>
        open(t, `${apps[0]!.ws}/`, {
          headers: { authorization: `Bearer ${token({ mode: 'w', channels: [name] })}` }
        })
      )
    )
    const headers = {
      authorization: `Bearer ${token({ mode: 'w' })}`,
      'content-type': 'application/json'
    }
    const expected = (n: number) => ['sql', 'http', 'websocket'].map((way) => `${way} ${n}`)
    const own = (channel: string) => readers.filter(({ channels }) => channels.includes(channel))
    for (const [n, channel] of NAMES.entries()) {
      const [bySql, byHttp, bySocket] = expected(n) as [string, string, string]
      await query(dbUri, 'select pgws.publish_text($1, $2)', [channel, bySql])
      const has = (count: number) => () =>
        own(channel).every(({ got }) => got().filter((one) => one.channel === channel).length >= count)
      await until(has(1))
      const answer = await fetch(`${apps[n % 2]!.http}/publish`, {
        method: 'POST',
        headers,
        body: JSON.stringify({ channel, payload: byHttp })
      })
      t.equal(answer.status, 202)
      await until(has(2))
      senders[n]!.send(bySocket)
      await until(has(3))
    }
    for (const { name, channels, got } of readers) {
      t.same(
        got().map(({ channel, payload }) => [channel, payload]),
        NAMES.flatMap((channel, n) =>
          channels.includes(channel) ? expected(n).map((text) => [channel, text]) : []
        ),
        name
      )
    }
  })
}
