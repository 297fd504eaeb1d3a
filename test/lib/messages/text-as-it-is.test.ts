import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import fc from 'fast-check'
import t from 'tap'
import {
  build,
  notify,
  open,
  query,
  refusal,
  SECRET,
  token,
  until,
  withPostgres
} from '../../support/helper.js'
import { jsonText } from '../../support/json.js'

const { database, migrated } = await withPostgres(t)
const TOKEN = token({ mode: 'rw', sub: 'me' })

/** The lines that an SDK reads from a socket of its protocol. */
async function sdkLines(t: Parameters<typeof open>[0], ws: string, channels: string[]) {
  const client = await open(t, `${ws}/connection/websocket`)
  client.send(JSON.stringify({ id: 1, connect: { token: TOKEN } }))
  for (const [index, channel] of channels.entries()) {
    client.send(JSON.stringify({ id: index + 2, subscribe: { channel } }))
  }
  const lines = () => client.messages.flatMap((frame) => frame.split('\n')).filter((line) => line !== '{}')
  await until(() => lines().length === channels.length + 1)
  let id = 100
  return {
    lines,
    pushes: () => lines().filter((line) => line.startsWith('{"push"')),
    send: (command: string) => client.send(`{"id":${++id},${command}}`),
    answer: async () => {
      await until(() => lines().some((line) => line.startsWith(`{"id":${id},`)))
      return lines().find((line) => line.startsWith(`{"id":${id},`))!
    }
  }
}

async function eventStream(port: number, channel: string) {
  const call = request({
    port,
    host: '127.0.0.1',
    path: `/${channel}/${TOKEN}`,
    headers: { accept: 'text/event-stream' }
  })
  call.end()
  const [response] = (await once(call, 'response')) as [IncomingMessage]
  let text = ''
  response.setEncoding('utf8').on('data', (chunk) => (text += chunk))
  return {
    /** As browsers read them. */
    messages: () =>
      text
        .split('\n\n')
        .slice(0, -1)
        .map((event) => event.split('\n').filter((line) => line.startsWith('data: ')))
        // Comments keep the connection open.
        .filter((lines) => lines.length > 0)
        .map((lines) => lines.map((line) => line.slice(6)).join('\n')),
    end: () => response.destroy()
  }
}

async function post(http: string, body: string): Promise<Response> {
  return fetch(`${http}/publish`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${TOKEN}` },
    body
  })
}

const inOneLine = (text: string) => text.replace(/[\r\n]/g, ' ')

for (const channel of ['plain', 'durable']) {
  t.test(`JSON keeps its text on every route in and out, in a ${channel} channel`, async (t) => {
    const dbUri = await migrated('durable')
    const { ws, http, port } = await build(t, { dbUri })
    const historyOf = async (since = 'earliest') => {
      const response = await fetch(`${http}/channels/durable/history?since=${since}`, {
        headers: { authorization: `Bearer ${TOKEN}` }
      })
      return response.text()
    }
    const raw = await open(t, `${ws}/${channel}/${TOKEN}`)
    const sdk = await sdkLines(t, ws, [channel])
    const events = await eventStream(port, channel)
    t.teardown(() => events.end())
    let count = 0

    /** @param payload of the envelope that raw clients have; an SDK sends one line */
    async function check(payload: string, line: string): Promise<string> {
      count++
      await raw.received(count)
      await until(() => sdk.pushes().length === count && events.messages().length === count)
      const text = raw.messages.at(-1)!
      assert.ok(text.includes(`"payload":${payload}`), text)
      assert.deepEqual(events.messages().at(-1), text.replace(/\r\n|\r/g, '\n'))
      const push = sdk.pushes().at(-1)!
      assert.ok(push.includes(`"data":${line}`), push)
      assert.doesNotThrow(() => JSON.parse(push))
      return text
    }

    await fc.assert(
      fc.asyncProperty(jsonText(), async (text) => {
        const line = inOneLine(text)
        // SQL, with an envelope of its own.
        await notify(dbUri, `{"claims":{},\n"payload":${text},"channel":"${channel}"}`)
        await check(text, line)
        // HTTP.
        const response = await post(http, `{"payload":"no","payload":${text}\n,"channel":"${channel}"}`)
        assert.equal(response.status, 202, await response.text())
        const sent = await check(`${text},"claims"`, `${line},"tags"`)
        // An SDK, which sends lines.
        sdk.send(`"publish":{"data":${line},"channel":"${channel}"}`)
        const own = await check(`${line},"claims"`, `${line},"tags"`)
        assert.match(await sdk.answer(), /"publish":\{\}/)
        // A socket: its messages are strings.
        raw.send(text)
        const string = JSON.stringify(text)
        await check(`${string},"claims"`, `${string},"tags"`)
        // jsonb as PostgreSQL prints it.
        const { rows } = await query(dbUri, 'select pgws.publish($1, $2), $2::jsonb::text as printed', [
          channel,
          text
        ])
        await check(`${rows[0].printed},"claims"`, `${rows[0].printed},"tags"`)
        if (channel !== 'durable') return
        const history = await historyOf(JSON.parse(sent).id)
        assert.ok(history.includes(own))
        const { id } = JSON.parse(sent)
        const since = `{"epoch":"${id.slice(0, 8)}","offset":${Number.parseInt(id.slice(9), 16)}}`
        sdk.send(`"history":{"channel":"durable","limit":1,"since":${since}}`)
        const answer = await sdk.answer()
        assert.ok(answer.includes(`"data":${line},"tags"`), answer)
      }),
      { numRuns: 40, endOnFailure: true }
    )
    t.ok(count >= 200)
  })
}

t.test('the claims of a sender keep their digits', async (t) => {
  const dbUri = await database()
  const { ws, fastify } = await build(t, { dbUri })
  const sdk = await sdkLines(t, ws, ['a'])
  await fastify.pgws.publish('a', 'from the server', { sub: 'x' })
  await notify(
    dbUri,
    '{"event":"WebsocketMessage","channel":"a","payload":1,"claims":{"sub":"x","big":9223372036854775807,"message_delivered_at":5}}'
  )
  await until(() => sdk.pushes().length === 2)
  t.match(
    sdk.pushes()[1],
    /"info":\{"user":"x","client":"","conn_info":\{"sub":"x","big":9223372036854775807\}\}/
  )
})

t.test('rejects a token with claims that are nested too deeply, in every protocol', async (t) => {
  const { ws, http, fastify } = await build(t, { dbUri: await database() })
  const nested = (depth: number) => JSON.parse(`${'['.repeat(depth)}${']'.repeat(depth)}`)
  const signed = (depth: number) => {
    // More levels than JSON.stringify supports.
    const payload = `{"mode":"rw","sub":"me","deep":${'['.repeat(depth)}${']'.repeat(depth)}}`
    const input = `${TOKEN.split('.')[0]}.${Buffer.from(payload).toString('base64url')}`
    return `${input}.${createHmac('sha256', SECRET).update(input).digest('base64url')}`
  }
  t.match(await refusal(t, `${ws}/a/${signed(5000)}`), {
    status: 403,
    answer: /at most 100 levels/
  })
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${signed(5000)}` }
  const response = await fetch(`${http}/publish`, {
    method: 'POST',
    headers,
    body: '{"channel":"a","payload":1}'
  })
  t.equal(response.status, 403)
  const client = await open(t, `${ws}/connection/websocket`)
  client.send(JSON.stringify({ id: 1, connect: { token: signed(5000) } }))
  t.match(JSON.parse((await client.received(1))[0]!), {
    id: 1,
    error: { code: 103, message: /at most 100 levels/ }
  })
  const fine = await open(t, `${ws}/a/${signed(90)}`)
  fine.send('hello')
  t.match(JSON.parse((await fine.received(1))[0]!), { claims: { deep: nested(90) } })
  t.equal((await fastify.pgws.connections()).length, 1)
})

t.test('accepts any depth of nesting', async (t) => {
  const dbUri = await migrated('durable')
  const { ws, http, fastify } = await build(t, { dbUri })
  const nested = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`
  for (const channel of ['plain', 'durable']) {
    const raw = await open(t, `${ws}/${channel}/${TOKEN}`)
    const sdk = await sdkLines(t, ws, [channel])
    // More than JSON.stringify supports, and less than PostgreSQL's max_stack_depth allows.
    await query(dbUri, 'select pgws.publish($1, $2)', [channel, nested(5000)])
    // A plain notification has no order relative to published messages.
    await query(dbUri, 'select pgws.catch_up()')
    await notify(dbUri, `{"channel":"${channel}","payload":${nested(3900)}}`)
    t.equal((await post(http, `{"channel":"${channel}","payload":${nested(100_000)}}`)).status, 202)
    sdk.send(`"publish":{"channel":"${channel}","data":${nested(100_000)}}`)
    t.match(await sdk.answer(), /"publish":\{\}/)
    await fastify.pgws.publish(channel, 'after it')
    await raw.received(5)
    await until(() => sdk.pushes().length === 5)
    for (const [index, depth] of [5000, 3900, 100_000, 100_000].entries()) {
      t.ok(raw.messages[index]!.includes(`"payload":${nested(depth)}`), `raw, ${depth} levels`)
      t.ok(sdk.pushes()[index]!.includes(`"data":${nested(depth)}`), `SDK, ${depth} levels`)
    }
    t.match(sdk.pushes()[4], /"data":"after it"/)
  }
  t.equal((await fastify.pgws.health()).status, 'ok')
})
