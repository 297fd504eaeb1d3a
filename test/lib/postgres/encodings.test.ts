import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import t from 'tap'
import { publish } from '../../../lib/publishing/publish-from-script.js'
import { migrate } from '../../../lib/schema/migrate.js'
import {
  build,
  install,
  LISTEN_CHANNEL,
  open,
  query,
  token,
  until,
  withPostgres
} from '../../support/helper.js'
import { createDatabase } from '../../support/postgres.js'
import { root } from '../../support/root.js'
import { sdk, subscribed } from '../../support/sdk.js'
import { statementsOf } from '../../support/sql-lint.js'

const { postgres } = await withPostgres(t)
const FACE = '\u{1f600}'

/** Characters beyond ASCII that an encoding has, and one that it lacks. */
const ENCODINGS: Record<string, { held: string; refused?: string }> = {
  UTF8: { held: `é温${FACE}` },
  LATIN1: { held: 'é', refused: '€' },
  WIN1252: { held: 'é€', refused: 'ł' },
  EUC_JP: { held: '温', refused: FACE },
  SQL_ASCII: { held: `é温${FACE}` }
}

const history = (http: string, channel: string) =>
  fetch(`${http}/channels/${encodeURIComponent(channel)}/history`, {
    headers: { authorization: `Bearer ${token({ mode: 'r' })}` }
  })
const payloadOf = (text: string) => JSON.parse(text).payload as unknown

for (const [encoding, { held, refused }] of Object.entries(ENCODINGS)) {
  t.test(`${encoding}: characters of the encoding arrive, however they are published`, async (t) => {
    const dbUri = await createDatabase(postgres, encoding === 'UTF8' ? undefined : encoding)
    await install(dbUri, 'kept*')
    // A character that few encodings have affects only its sender.
    const claims = { mode: 'rw', sub: `me ${FACE}`, name: 'łé温' }
    const { http, ws, fastify } = await build(t, { dbUri, migrate: true, metaChannel: 'meta' })
    const meta = await open(t, `${ws}/meta/${token({ mode: 'r' })}`)
    const readers = await Promise.all(
      ['plain', 'kept'].map((channel) => open(t, `${ws}/${channel}/${token({ mode: 'r' })}`))
    )
    await query(dbUri, 'create table things (id int, name text)')
    await query(dbUri, `select pgws.watch('things', 'kept')`)

    for (const [index, channel] of ['plain', 'kept'].entries()) {
      const reader = readers[index]!
      const sender = await open(t, `${ws}/${channel}/${token(claims)}`)
      sender.send(`socket ${held}`)
      await reader.received(1)
      const post = await fetch(`${http}/publish`, {
        method: 'POST',
        headers: { authorization: `Bearer ${token(claims)}`, 'content-type': 'application/json' },
        body: JSON.stringify({ channel, payload: { post: held } })
      })
      t.equal(post.status, 202)
      await reader.received(2)
      await fastify.pgws.publish(channel, `plugin ${held}`, claims)
      await reader.received(3)
      await query(dbUri, 'select pgws.publish_text($1, $2)', [channel, `sql ${held}`])
      await reader.received(4)
      const pool = new pg.Pool({ connectionString: dbUri })
      await publish(pool, channel, { process: held }, { claims })
      await pool.end()
      t.same((await reader.received(5)).map(payloadOf), [
        `socket ${held}`,
        { post: held },
        `plugin ${held}`,
        `sql ${held}`,
        { process: held }
      ])
      t.match(JSON.parse(reader.messages[0]!).claims, claims)
    }
    // Too large for a notification.
    const large = held.repeat(8000)
    await fastify.pgws.publish('plain', large, claims)
    t.equal(payloadOf((await readers[0]!.received(6))[5]!), large)
    await fastify.pgws.publish('kept', large, claims)
    t.equal(payloadOf((await readers[1]!.received(6))[5]!), large)
    await query(dbUri, 'insert into things values (1, $1)', [held])
    t.match(payloadOf((await readers[1]!.received(7))[6]!), { record: { id: 1, name: held } })
    // The stored messages. The first one is the websocket's.
    const answer = await history(http, 'kept')
    const { messages } = (await answer.json()) as { messages: { id: string; payload: unknown }[] }
    t.equal(messages.length, 7)
    t.equal(messages[0]!.payload, `socket ${held}`)
    const resumed = await open(t, `${ws}/kept/${token({ mode: 'r' })}?since=${messages[5]!.id}`)
    t.match(payloadOf((await resumed.received(1))[0]!), { record: { name: held } })
    // The meta channel received the sender's event, with a claim that the database cannot store.
    await until(() => meta.messages.some((text) => JSON.parse(text).claims.sub === claims.sub))
    t.equal((await fetch(`${http}/health`)).status, 200)
  })

  if (refused === undefined) continue
  t.test(`${encoding}: rejects only messages with a character that the encoding lacks`, async (t) => {
    const dbUri = await createDatabase(postgres, encoding)
    await install(dbUri, 'kept*')
    const { http, ws, fastify } = await build(t, { dbUri })
    const claims = { mode: 'rw', sub: 'me' }
    for (const channel of ['plain', 'kept']) {
      const reader = await open(t, `${ws}/${channel}/${token({ mode: 'r' })}`)
      const senders = await Promise.all(
        Array.from({ length: 6 }, () => open(t, `${ws}/${channel}/${token(claims)}`))
      )
      const closed = senders[2]!.closed()
      for (const [i, sender] of senders.entries()) sender.send(i === 2 ? `2 ${refused}` : `${i}`)
      t.equal((await closed).code, 1007)
      const post = await fetch(`${http}/publish`, {
        method: 'POST',
        headers: { authorization: `Bearer ${token(claims)}`, 'content-type': 'application/json' },
        body: JSON.stringify({ channel, payload: refused })
      })
      t.equal(post.status, 400)
      t.match(await post.json(), { code: 'FST_PGWS_BAD_MESSAGE', message: /the database cannot store it/ })
      await t.rejects(fastify.pgws.publish(channel, { a: [refused] }), { code: 'FST_PGWS_BAD_MESSAGE' })
      const centrifuge = sdk(t, ws, { token: token({ ...claims, channels: [channel] }) })
      centrifuge.connect()
      await t.rejects(centrifuge.publish(channel, { a: refused }), { code: 107 })
      t.match(await centrifuge.publish(channel, 'sdk'), {})
      t.same((await reader.received(6)).map(payloadOf).sort(), ['0', '1', '3', '4', '5', 'sdk'])
    }
    t.same((await fastify.pgws.health()).status, 'ok')
  })

  t.test(`${encoding}: rejects requests for the history of a channel that it cannot name`, async (t) => {
    const dbUri = await createDatabase(postgres, encoding)
    await install(dbUri, 'kept*')
    const { http, ws, fastify } = await build(t, { dbUri })
    const channel = `kept ${refused}`
    t.equal((await history(http, channel)).status, 400)
    await t.rejects(fastify.pgws.publish(channel, 'x'), { code: 'FST_PGWS_BAD_MESSAGE' })
    // If nothing is stored, only the envelope contains the name.
    const reader = await open(t, `${ws}/${encodeURIComponent(refused)}/${token({ mode: 'r' })}`)
    await fastify.pgws.publish(refused, 'there')
    t.match(JSON.parse((await reader.received(1))[0]!), { channel: refused, payload: 'there' })
    const centrifuge = sdk(t, ws, { token: token({ mode: 'rw', sub: 'me' }) })
    centrifuge.connect()
    await centrifuge.ready()
    const { subscription } = subscribed(centrifuge, channel, { recoverable: true })
    const ended = await new Promise<{ code: number }>((resolve) => subscription.once('unsubscribed', resolve))
    t.equal(ended.code, 107)
  })
}

t.test('the SQL of this package is ASCII', (t) => {
  const sources = ['lib', 'plugins', 'routes'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true }).map((file) => `${folder}/${file}`)
  )
  let count = 0
  for (const path of [...readdirSync(root), ...sources].filter((name) => name.endsWith('.ts'))) {
    for (const { line, sql } of statementsOf(path, readFileSync(join(root, path), 'utf8'))) {
      count++
      if (!/^\p{ASCII}*$/u.test(sql)) t.fail(`${path}:${line}`)
    }
  }
  t.ok(count > 50, 'they are found')
  for (const file of readdirSync(join(root, 'lib/schema/sql'))) {
    const sql = readFileSync(join(root, 'lib/schema/sql', file), 'utf8')
    const line = sql.split('\n').findIndex((text) => !/^\p{ASCII}*$/u.test(text))
    t.equal(line, -1, `lib/schema/sql/${file}`)
  }
  t.end()
})

t.test('everything that a session sends to migrate and to publish is ASCII', async (t) => {
  const client = new pg.Client(await createDatabase(postgres, 'LATIN1'))
  await client.connect()
  t.teardown(() => client.end())
  const sent: string[] = []
  const send = client.query.bind(client) as (...args: unknown[]) => unknown
  Object.assign(client, {
    query: (...args: unknown[]) => {
      if (typeof args[0] === 'string') sent.push(args[0])
      return send(...args)
    }
  })
  await migrate(client, LISTEN_CHANNEL)
  await publish(client, 'a', 'é', { claims: { sub: FACE } })
  t.ok(sent.length > 5)
  for (const text of sent) t.match(text, /^\p{ASCII}*$/u)
})
