import pg from 'pg'
import t from 'tap'
import { publish } from '../../../emitter.js'
import { channelNameProblem, checkChannel, MAX_CHANNEL_BYTES } from '../../../lib/channel-name.js'
import { audienceChannel } from '../../../lib/channels/audience-channels.js'
import { build, notify, open, query, refusal, token, until, withPostgres } from '../../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()

/** Names that no channel can have, and the error for each. */
const WRONG = new Map([
  ['\0audience 0 admins', /NUL/],
  ['a\0', /NUL/],
  ['sensor:\ud800', /surrogate/],
  ['x'.repeat(MAX_CHANNEL_BYTES + 1), /at most 1024 bytes/],
  ['é'.repeat(513), /at most 1024 bytes/]
])
const LONGEST = ['x'.repeat(1024), 'é'.repeat(512), '𝄞'.repeat(256)]
const rw = (claims: object = {}) => token({ mode: 'rw', sub: 'me', ...claims })
const encode = (name: string) => encodeURIComponent(name.toWellFormed())

t.test('valid and invalid channel names', async (t) => {
  for (const name of ['a', 'sensor:温', '__proto__', ' ', '%', ...LONGEST]) {
    t.equal(channelNameProblem(name), undefined)
  }
  t.match(channelNameProblem(''), /empty/)
  for (const [name, problem] of WRONG) {
    t.match(channelNameProblem(name), problem)
    t.throws(() => checkChannel(name, 'here'), { statusCode: 400, message: problem })
  }
})

t.test('addresses, tokens and HTTP requests: 400 or 403 with the reason', async (t) => {
  const { ws, http } = await build(t, { dbUri, migrate: true, presenceChannels: '**' })
  for (const name of LONGEST) await open(t, `${ws}/${encode(name)}/${rw()}`)
  for (const [name, problem] of WRONG) {
    if (name.isWellFormed()) {
      for (const url of [`${ws}/${encode(name)}/${rw()}`, `${ws}/?channel=a&channel=${encode(name)}`]) {
        const headers = { authorization: `Bearer ${rw()}` }
        const { status, answer } = await refusal(t, url, { headers })
        t.equal(status, 400)
        t.match(answer, problem)
      }
      for (const read of ['history', 'presence']) {
        const answer = await fetch(`${http}/channels/${encode(name)}/${read}`, {
          headers: { authorization: `Bearer ${rw()}` }
        })
        t.equal(answer.status, 400)
        t.match(await answer.text(), problem)
      }
    }
    for (const claims of [{ channels: ['a', name] }, { channel: name }]) {
      const { status, answer } = await refusal(t, `${ws}/${rw(claims)}`)
      t.equal(status, 403)
      t.match(answer, problem)
    }
    for (const body of [
      { channel: name, payload: 1 },
      { channels: ['a', name], payload: 1 }
    ]) {
      const answer = await fetch(`${http}/publish`, {
        method: 'POST',
        headers: { authorization: `Bearer ${rw()}`, 'content-type': 'application/json' },
        body: JSON.stringify(body)
      })
      t.equal(answer.status, 400)
      t.match(await answer.text(), problem)
    }
  }
})

t.test("the SDK's commands and tokens", async (t) => {
  const { ws, fastify } = await build(t, { dbUri, presenceChannels: '**' })
  const client = await open(t, `${ws}/connection/websocket`)
  const replies = () => client.messages.filter((text) => text !== '{}').map((text) => JSON.parse(text))
  client.send(JSON.stringify({ id: 1, connect: { token: rw() } }))
  let id = 1
  for (const [name, problem] of WRONG) {
    for (const method of ['subscribe', 'publish', 'history', 'presence', 'presence_stats', 'sub_refresh']) {
      client.send(JSON.stringify({ id: ++id, [method]: { channel: name, data: 1 } }))
      await until(() => replies().length === id)
      t.match(replies()[id - 1], { id, error: { code: 107, message: problem } }, method)
    }
    // An error would make the SDK drop its connection.
    client.send(JSON.stringify({ id: ++id, unsubscribe: { channel: name } }))
    await until(() => replies().length === id)
    t.same(replies()[id - 1], { id, unsubscribe: {} })
    const other = await open(t, `${ws}/connection/websocket`)
    other.send(JSON.stringify({ id: 1, connect: { token: token({ sub: 'me', subs: { [name]: {} } }) } }))
    t.match(JSON.parse((await other.received(1))[0]!), { id: 1, error: { code: 103, message: problem } })
  }
  t.same(fastify.pgws.channels(), [])
})

t.test('allows as many server-side subscriptions as a connection may have channels', async (t) => {
  const { ws } = await build(t, { dbUri, maxChannelsPerConnection: 2 })
  const client = await open(t, `${ws}/connection/websocket`)
  client.send(JSON.stringify({ id: 1, connect: { token: token({ subs: { a: {}, b: {}, c: {} } }) } }))
  t.match(JSON.parse((await client.received(1))[0]!), { id: 1, error: { code: 103, message: /at most 2/ } })
})

t.test('the plugin, and scripts', async (t) => {
  const { fastify } = await build(t, { dbUri })
  const client = new pg.Client(dbUri)
  await client.connect()
  t.teardown(() => client.end())
  for (const [name, message] of [...WRONG, ['', /empty/] as const]) {
    t.throws(() => fastify.pgws.subscribe(name, () => {}), { message })
    await t.rejects(fastify.pgws.publish(name, 1), { statusCode: 400, message })
    await t.rejects(publish(client, name, 1), { statusCode: 400, message })
    if (name !== '') await t.rejects(build(t, { dbUri, metaChannel: name }), { message })
  }
})

t.test('a notification for an impossible channel reaches nobody, not even an audience', async (t) => {
  const { ws } = await build(t, {
    dbUri,
    endpoints: [{ path: '/audience', channels: ['news'], audiences: () => ['admins'] }]
  })
  const admin = await open(t, `${ws}/audience`)
  const reader = await open(t, `${ws}/postgres-websockets-listener/${rw()}`)
  for (const name of [...WRONG.keys(), audienceChannel(0, 'admins'), '']) {
    const json = JSON.stringify({ channel: name, payload: 'forged' })
    await notify(dbUri, json)
  }
  await notify(dbUri, 'admins,{"n":1}', 'news')
  await notify(dbUri, 'last')
  t.match(JSON.parse((await admin.received(1))[0]!), { payload: { n: 1 } })
  t.same(await reader.received(1), ['last'])
  t.equal(admin.messages.length, 1)
})

t.test('rejects audiences that no notification can name', async (t) => {
  const { ws } = await build(t, {
    dbUri,
    endpoints: [{ path: '/audience', channels: ['news'] }]
  })
  for (const name of WRONG.keys()) {
    const { status } = await refusal(t, `${ws}/audience`, {
      headers: { authorization: `Bearer ${token({ audiences: [name] })}` }
    })
    t.equal(status, 403)
  }
})

t.test('members that another node announces', async (t) => {
  const { ws, http, fastify } = await build(t, { dbUri, presenceChannels: '**' })
  const other = await build(t, { dbUri, presenceChannels: '**' })
  await open(t, `${other.ws}/a/${rw()}`)
  await until(async () => (await fastify.pgws.presence('a')).count === 1)
  await open(t, `${ws}/b/${rw()}`)
  const { id } = other.fastify.pgws.nodes()[0]!
  const head = { pgws: 1, from: id, type: 'presence', id: 1000, part: 0, last: true }
  for (const name of WRONG.keys()) {
    const members = [
      ['a', 7, 'forged'],
      [name, 7, 'forged']
    ]
    const text = `${JSON.stringify(head)}\n${JSON.stringify({ version: 1000, members })}`
    await query(dbUri, 'select pg_notify($1, $2)', ['pgws_nodes:postgres-websockets-listener', text])
  }
  await notify(dbUri, '{"channel":"b","payload":1}')
  const answer = await fetch(`${http}/channels/a/presence`, { headers: { authorization: `Bearer ${rw()}` } })
  t.match(await answer.json(), { count: 1, clients: [{ user: 'me' }] })
})
