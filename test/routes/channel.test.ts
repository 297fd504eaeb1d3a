import { generateKeyPairSync } from 'node:crypto'
import { once } from 'node:events'
import { createSigner } from 'fast-jwt'
import t from 'tap'
import {
  build,
  LISTEN_CHANNEL,
  notify,
  open,
  query,
  refusal,
  sqlListener,
  token,
  until,
  withPostgres
} from '../support/helper.js'

const { database } = await withPostgres(t)
const dbUri = await database()
const { ws } = await build(t, { dbUri })

const rw = token({ mode: 'rw' })
const message = (channel: string, payload = 'test') =>
  JSON.stringify({ event: 'WebsocketMessage', channel, payload })

t.test('addresses', async (t) => {
  t.test(
    'row 1: /:channel/:token joins one channel, /:token every channel that the token names',
    async (t) => {
      const one = await open(t, `${ws}/row1-a/${rw}`)
      const all = await open(t, `${ws}/${token({ mode: 'r', channels: ['row1-a', 'row1-b'] })}`)
      await notify(dbUri, message('row1-a'))
      await notify(dbUri, message('row1-b'))
      t.same(await all.received(2), [message('row1-a'), message('row1-b')])
      t.same(one.messages, [message('row1-a')])
    }
  )

  t.test('row 2: what follows the token in the path is ignored', async (t) => {
    const client = await open(t, `${ws}/row2/${rw}/more/and/more?query=1`)
    await notify(dbUri, message('row2'))
    t.same(await client.received(1), [message('row2')])
  })

  t.test('row 3: the channel is percent-decoded, so that any name can be used', async (t) => {
    for (const channel of ['a/b', 'ü ñ', '100%', '日本語', "o'clock", '"quoted"', '?#', '\\']) {
      const encoded = encodeURIComponent(channel)
      const client = await open(t, `${ws}/${encoded}/${rw}`)
      await notify(dbUri, message(channel))
      t.same(await client.received(1), [message(channel)], channel)
      client.webSocket.terminate()
    }
  })

  t.test('a channel can have the name of an address', async (t) => {
    for (const channel of [
      'health',
      'channels',
      'publish',
      'documentation',
      'metrics',
      'index.html',
      'health/live'
    ]) {
      const client = await open(t, `${ws}/${encodeURIComponent(channel)}/${rw}`)
      await notify(dbUri, message(channel))
      t.same(await client.received(1), [message(channel)], channel)
      client.webSocket.terminate()
    }
  })

  t.test('a channel may have 1,024 bytes, and a token 8 KiB', async (t) => {
    const channel = 'x'.repeat(1024)
    const long = token({ mode: 'rw', padding: 'p'.repeat(6000) })
    const client = await open(t, `${ws}/${channel}/${long}`)
    await notify(dbUri, message(channel))
    t.same(await client.received(1), [message(channel)])
    t.equal((await refusal(t, `${ws}/${channel}y/${long}`)).status, 400)
  })
})

t.test('tokens', async (t) => {
  t.test('row 7: the kid selects the key of a set; every algorithm of a key type works', async (t) => {
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
    const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const ed = generateKeyPairSync('ed25519')
    const secret = Buffer.from('0123456789abcdef0123456789abcdef')
    const jwk = (key: typeof rsa.publicKey, kid: string) => ({ ...key.export({ format: 'jwk' }), kid })
    const keys = [
      jwk(rsa.publicKey, 'rsa'),
      jwk(ec.publicKey, 'ec'),
      jwk(ed.publicKey, 'ed'),
      { kty: 'oct', kid: 'hmac', k: secret.toString('base64url') }
    ]
    const { ws } = await build(t, { dbUri, jwtSecret: JSON.stringify({ keys }) })
    const pem = (key: typeof rsa.privateKey) => key.export({ type: 'pkcs8', format: 'pem' }) as string
    const sign = (key: string | Buffer, algorithm: string, kid?: string) =>
      createSigner({ key, algorithm, kid, noTimestamp: true } as never)({ mode: 'rw' } as never)
    for (const kid of [true, false]) {
      for (const algorithm of ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']) {
        await open(t, `${ws}/a/${sign(pem(rsa.privateKey), algorithm, kid ? 'rsa' : undefined)}`)
      }
      await open(t, `${ws}/a/${sign(pem(ec.privateKey), 'ES256', kid ? 'ec' : undefined)}`)
      await open(t, `${ws}/a/${sign(pem(ed.privateKey), 'EdDSA', kid ? 'ed' : undefined)}`)
      for (const algorithm of ['HS256', 'HS384', 'HS512']) {
        await open(t, `${ws}/a/${sign(secret, algorithm, kid ? 'hmac' : undefined)}`)
      }
    }
    const wrongKid = await refusal(t, `${ws}/a/${sign(secret, 'HS256', 'rsa')}`)
    t.equal(wrongKid.status, 401)

    // Algorithm confusion: the public key as an HMAC secret, which fast-jwt itself refuses to sign with.
    const claims = { mode: 'rw' }
    const publicPem = rsa.publicKey.export({ type: 'spki', format: 'pem' }) as string
    for (const forged of [
      token(claims, publicPem, { alg: 'HS256', kid: 'rsa' }),
      token(claims, publicPem, { alg: 'HS256' }),
      token(claims, secret.toString(), { alg: 'none' }),
      token(claims, secret.toString(), { alg: 'none' }).replace(/[^.]*$/, ''),
      token(claims, secret.toString(), { alg: 'HS256', kid: 'hmac' }).replace(/[^.]*$/, ''),
      token(claims, secret.toString(), { alg: 'HS256', crit: ['x'], x: 1 })
    ]) {
      t.equal((await refusal(t, `${ws}/a/${forged}`)).status, 401)
    }
  })

  t.test('row 8: exp, nbf and iat are checked, with 30 s of tolerance for nbf and iat', async (t) => {
    const now = Math.floor(Date.now() / 1000)
    await open(t, `${ws}/a/${token({ mode: 'r', exp: now + 60, nbf: now + 20, iat: now + 20 })}`)
    const cases: [object, string][] = [
      [{ exp: now - 1 }, 'Token expired'],
      [{ nbf: now + 60 }, 'Error: '],
      [{ iat: now + 60 }, 'Error: '],
      [{ exp: 'tomorrow' }, 'Error: '],
      [{ exp: null }, 'Error: ']
    ]
    for (const [claims, text] of cases) {
      const refused = await refusal(t, `${ws}/a/${token({ mode: 'r', ...claims })}`)
      t.equal(refused.status, 401)
      t.ok(refused.answer.startsWith(text), refused.answer)
    }
  })

  t.test('row 8: any aud is accepted', async (t) => {
    await open(t, `${ws}/a/${token({ mode: 'r', aud: 'someone else' })}`)
  })

  t.test('row 9: channel and channels are merged, channel first, duplicates dropped', async (t) => {
    const { fastify, ws } = await build(t, { dbUri, metaChannel: 'meta' })
    const { payloads } = await sqlListener(t, dbUri)
    await open(t, `${ws}/${token({ mode: 'r', channel: 'b', channels: ['a', 'b', 'c', 'a'] })}`)
    await until(() => payloads.length === 1)
    t.equal(JSON.parse(payloads[0]!).payload, 'b,a,c')
    t.same(
      fastify.pgws
        .channels()
        .map(({ channel }) => channel)
        .sort(),
      ['a', 'b', 'c']
    )
  })

  t.test(
    'row 10: a token that names no channels can join any, another one only those that it names',
    async (t) => {
      await open(t, `${ws}/anything/${rw}`)
      await open(t, `${ws}/named/${token({ mode: 'r', channels: ['named'] })}`)
      await open(t, `${ws}/named/${token({ mode: 'r', channel: 'named' })}`)
      for (const url of [`${ws}/other/${token({ mode: 'r', channels: ['named'] })}`, `${ws}/${rw}`]) {
        const refused = await refusal(t, url)
        t.equal(refused.status, 403)
        t.ok(refused.answer.startsWith('No allowed channels'))
      }
    }
  )

  t.test('row 11: an empty list allows nothing; the wrong type is malformed', async (t) => {
    for (const path of ['a/', '']) {
      const empty = await refusal(t, `${ws}/${path}${token({ mode: 'r', channels: [] })}`)
      t.equal(empty.status, 403)
      t.ok(empty.answer.startsWith('No allowed channels'))
    }
    for (const claims of [
      { channels: 'a' },
      { channels: [1] },
      { channels: null },
      { channel: 5 },
      { channel: ['a'] }
    ]) {
      const refused = await refusal(t, `${ws}/a/${token({ mode: 'r', ...claims })}`)
      t.equal(refused.status, 403)
      t.ok(refused.answer.startsWith('Malformed claims'), refused.answer)
    }
  })

  t.test(
    'row 12: answers 401 to an invalid token, 403 to a token that does not allow the request',
    async (t) => {
      const foreign = token({ mode: 'rw' }, 'another secret that is as long as ours')
      for (const bad of [
        '',
        'nonsense',
        'a.b.c',
        `${rw}x`,
        foreign,
        rw.split('.').slice(0, 2).join('.'),
        'x'.repeat(12_000)
      ]) {
        const refused = await refusal(t, `${ws}/a/${bad}`)
        t.equal(refused.status, 401, bad.slice(0, 20))
        t.ok(refused.answer.startsWith('Error: '))
        t.equal(JSON.parse(refused.body).statusCode, 401)
        if (bad !== '') t.notMatch(refused.body, bad)
      }
      const missing = await refusal(t, `${ws}/a/${token({})}`)
      t.equal(missing.status, 403)
      t.ok(missing.answer.startsWith('Missing mode'))
    }
  )

  t.test('row 13: an unknown mode is rejected', async (t) => {
    for (const mode of ['x', 'wr', '', 5, null, ['rw']]) {
      const refused = await refusal(t, `${ws}/a/${token({ mode })}`)
      t.equal(refused.status, 403)
      t.ok(refused.answer.startsWith('Unknown mode'))
    }
  })

  t.test('row 14: closes with 3001 "JWT expired" when exp passes', async (t) => {
    const exp = Date.now() / 1000 + 3
    // A token that is valid for a thousand years (more than a timer can wait) is used before, and outlives it.
    const [client, eternal] = await Promise.all(
      [exp, exp + 1000 * 365 * 86_400].map((exp) => open(t, `${ws}/a/${token({ mode: 'r', exp })}`))
    )
    t.same(await client!.closed(), { code: 3001, reason: 'JWT expired' })
    t.ok(Date.now() / 1000 >= exp, 'not before')
    t.equal(eternal!.webSocket.readyState, 1)
  })

  t.test('row 18: an empty token is never accepted', async (t) => {
    t.equal((await refusal(t, `${ws}/a/`)).status, 401)
    t.equal((await refusal(t, `${ws}/`)).status, 401)
  })
})

t.test('from the browser', async (t) => {
  t.test('row 15: a message goes to each joined channel, in the envelope with the claims', async (t) => {
    const { payloads } = await sqlListener(t, dbUri)
    const client = await open(t, `${ws}/${token({ mode: 'w', channels: ['row15-a', 'row15-b'], sub: 'me' })}`)
    const before = Date.now() / 1000
    client.send('hällo "you"')
    await until(() => payloads.length === 2)
    for (const [index, channel] of ['row15-a', 'row15-b'].entries()) {
      const sent = JSON.parse(payloads[index]!)
      const { message_delivered_at: at, ...claims } = sent.claims
      t.same(Object.keys(sent), ['event', 'channel', 'payload', 'claims'])
      t.match(sent, { event: 'WebsocketMessage', channel, payload: 'hällo "you"' })
      t.same(claims, { mode: 'w', channels: ['row15-a', 'row15-b'], sub: 'me' })
      // Times are distinct, so one may be microseconds ahead.
      t.ok(at >= Math.floor(before) && at <= Math.ceil(Date.now() / 1000), 'between the message and now')
    }
  })

  t.test('row 16: what a reader sends is ignored', async (t) => {
    const client = await open(t, `${ws}/row16/${token({ mode: 'r' })}`)
    client.send('ignored')
    // The server has read it.
    client.webSocket.ping()
    await once(client.webSocket, 'pong')
    // It publishes in order.
    const writer = await open(t, `${ws}/row16-other/${rw}`)
    writer.send('marker')
    await writer.received(1)
    await notify(dbUri, message('row16', 'seen'))
    await client.received(1)
    t.same(client.messages, [message('row16', 'seen')])
    t.equal(client.webSocket.readyState, 1)
  })

  t.test('row 17: a binary message is read as UTF-8 text', async (t) => {
    const client = await open(t, `${ws}/row17/${rw}`)
    client.send(Buffer.from('grüße'))
    t.equal(JSON.parse((await client.received(1))[0]!).payload, 'grüße')
    t.same(client.binary, [false])
  })

  t.test(
    'row 19: a message that is too large for a notification closes the sender with 1009, and is logged',
    async (t) => {
      const { ws, lines } = await build(t, { dbUri })
      const reader = await open(t, `${ws}/row19/${token({ mode: 'r' })}`)
      const client = await open(t, `${ws}/row19/${rw}`)
      client.send('x'.repeat(8000))
      t.equal((await client.closed()).code, 1009)
      t.match(lines.join(''), /not published/)
      t.same(reader.messages, [])
    }
  )

  t.test('identical messages are all delivered, in order', async (t) => {
    const reader = await open(t, `${ws}/order/${token({ mode: 'r' })}`)
    const client = await open(t, `${ws}/order/${token({ mode: 'w' })}`)
    for (let i = 0; i < 1000; i++) client.send(i % 2 ? 'same' : String(i))
    const payloads = (await reader.received(1000)).map((text) => JSON.parse(text).payload)
    t.same(
      payloads,
      Array.from({ length: 1000 }, (_, i) => (i % 2 ? 'same' : String(i)))
    )
  })

  t.test('a NUL character closes the sender with 1007, and affects nobody else', async (t) => {
    const other = await open(t, `${ws}/nul/${rw}`)
    const client = await open(t, `${ws}/nul/${rw}`)
    client.send('a\0b')
    t.equal((await client.closed()).code, 1007)
    other.send('\\u0000 as text is fine')
    t.equal(JSON.parse((await other.received(1))[0]!).payload, '\\u0000 as text is fine')
    t.equal((await refusal(t, `${ws}/a%00b/${rw}`)).status, 400)
    // A lone surrogate is not UTF-8. As escaped text, it would break readers that parse the message as jsonb.
    const surrogate = await open(t, `${ws}/nul/${rw}`)
    surrogate.webSocket.send(Buffer.from([0xed, 0xa0, 0x80]), { binary: false })
    t.equal((await surrogate.closed()).code, 1007)
  })
})

t.test('to the browser', async (t) => {
  t.test('row 20: the server listens on the one database channel that is configured', async (t) => {
    const { ws } = await build(t, { dbUri, listenChannel: 'Ünusual "channel"' })
    const client = await open(t, `${ws}/row20/${rw}`)
    await notify(dbUri, message('row20', 'other'))
    await notify(dbUri, message('row20', 'ours'), 'Ünusual "channel"')
    t.same(await client.received(1), [message('row20', 'ours')])
  })

  t.test(
    "row 21: a payload without a channel goes to those in the channel of the listen channel's name",
    async (t) => {
      const client = await open(t, `${ws}/${LISTEN_CHANNEL}/${rw}`)
      const other = await open(t, `${ws}/row21/${rw}`)
      const payloads = [
        'plain',
        '',
        '5',
        '[{"channel":"row21"}]',
        '{"channel":5}',
        '{"channel":null}',
        '{"a":1}',
        '{"channel":"row21"',
        'null'
      ]
      for (const payload of payloads) await notify(dbUri, payload)
      t.same(await client.received(payloads.length), payloads)
      t.same(other.messages, [])
    }
  )

  t.test('row 22: the payload is forwarded byte for byte', async (t) => {
    const client = await open(t, `${ws}/row22/${rw}`)
    const odd = ' {\n "z" : 1.0e0, "channel":"row22","a":"\\u00e4ä", "z":2 }  '
    await notify(dbUri, odd)
    t.same(await client.received(1), [odd])
  })

  t.test('row 23: the SQL of the documentation reaches everyone in the channel', async (t) => {
    const clients = await Promise.all([1, 2, 3].map(() => open(t, `${ws}/chat/${rw}`)))
    await query(
      dbUri,
      "SELECT pg_notify('postgres-websockets-listener', json_build_object('event','WebsocketMessage','channel','chat','payload','test')::text)"
    )
    for (const client of clients) {
      const [text] = await client.received(1)
      t.same(JSON.parse(text!), { event: 'WebsocketMessage', channel: 'chat', payload: 'test' })
    }
  })

  t.test('row 24: a sender that can read receives its own message', async (t) => {
    const client = await open(t, `${ws}/row24/${rw}`)
    client.send('echo')
    t.equal(JSON.parse((await client.received(1))[0]!).payload, 'echo')
  })

  t.test('row 25: a client with mode w receives nothing', async (t) => {
    const writer = await open(t, `${ws}/row25/${token({ mode: 'w' })}`)
    const reader = await open(t, `${ws}/row25/${token({ mode: 'r' })}`)
    writer.send('hello')
    await reader.received(1)
    // Nothing is on its way to the writer.
    writer.webSocket.ping()
    await once(writer.webSocket, 'pong')
    t.same(writer.messages, [])
  })

  t.test('delivers in order across the channels of one socket', async (t) => {
    const client = await open(t, `${ws}/${token({ mode: 'r', channels: ['x', 'y', 'z'] })}`)
    const sent = Array.from({ length: 300 }, (_, i) => message('xyz'[i % 3]!, String(i)))
    await query(dbUri, 'select pg_notify($1, x) from unnest($2::text[]) x', [LISTEN_CHANNEL, sent])
    t.same(await client.received(300), sent)
  })

  t.test('delivers messages of every length completely', async (t) => {
    const client = await open(t, `${ws}/len/${rw}`)
    const sent = [0, 60, 90, 91, 92, 125, 126, 127, 1000, 7000].map((length) =>
      message('len', 'ä'.repeat(length / 2))
    )
    for (const text of sent) await notify(dbUri, text)
    t.same(await client.received(sent.length), sent)
  })
})

t.test('meta channel', async (t) => {
  t.test(
    'rows 27 and 28: ConnectionOpen and ConnectionClose are published on the meta channel',
    async (t) => {
      const { ws } = await build(t, { dbUri, metaChannel: 'server-info' })
      const { payloads } = await sqlListener(t, dbUri)
      const watcher = await open(t, `${ws}/server-info/${token({ mode: 'r' })}`)
      await watcher.received(1)
      const client = await open(t, `${ws}/${token({ mode: 'rw', channels: ['a', 'b'], sub: 'me' })}`)
      await watcher.received(2)
      client.webSocket.close()
      const events = (await watcher.received(3)).map((text) => JSON.parse(text))
      t.match(events[0], { event: 'ConnectionOpen', channel: 'server-info', payload: 'server-info' })
      t.match(events[1], {
        event: 'ConnectionOpen',
        channel: 'server-info',
        payload: 'a,b',
        claims: { sub: 'me', message_delivered_at: Number }
      })
      t.match(events[2], {
        event: 'ConnectionClose',
        channel: 'server-info',
        payload: 'a,b',
        claims: { sub: 'me', message_delivered_at: Number }
      })
      await until(() => payloads.length === 3)
      t.same(payloads, watcher.messages)
    }
  )
})
