import t from 'tap'
import { build, open, query, sqlListener, token, until, withOwnPostgres } from '../support/helper.js'

const { postgres, database } = await withOwnPostgres(t)
const dbUri = await database()
const { http, ws, fastify, lines } = await build(t, { dbUri })
const rw = token({ mode: 'rw', sub: 'me' })

async function post(body: unknown, { bearer = rw, type = 'application/json', base = http } = {}) {
  const response = await fetch(`${base}/publish`, {
    method: 'POST',
    headers: { 'content-type': type, ...(bearer && { authorization: `Bearer ${bearer}` }) },
    body: typeof body === 'string' ? body : JSON.stringify(body)
  })
  const text = await response.text()
  return { status: response.status, headers: response.headers, text, body: JSON.parse(text) }
}

t.test('GET /health answers 200 with the state of each part', async (t) => {
  await open(t, `${ws}/a/${rw}`)
  const response = await fetch(`${http}/health`)
  t.equal(response.status, 200)
  const health = (await response.json()) as Record<string, never>
  t.match(health, {
    status: 'ok',
    listener: { status: 'up', upSince: /^\d{4}-.*Z$/, lastProvenAlive: /^\d{4}-.*Z$/, reconnects: 0 },
    pool: { status: 'up' },
    connections: 1
  })
  t.notMatch(JSON.stringify(health), /postgres:|secret|\/tmp/)
})

t.test('GET /health/live and /health/ready answer 200', async (t) => {
  t.equal((await fetch(`${http}/health/live`)).status, 200)
  t.equal((await fetch(`${http}/health/ready`)).status, 200)
})

t.test('GET /channels shows connections, readers and writers to an admin', async (t) => {
  await open(t, `${ws}/listed/${rw}`)
  await open(t, `${ws}/listed/${token({ mode: 'r' })}`)
  const writer = await open(t, `${ws}/listed/${token({ mode: 'w' })}`)
  const get = async (authorization?: string) => {
    const response = await fetch(`${http}/channels`, { headers: authorization ? { authorization } : {} })
    return { status: response.status, body: (await response.json()) as { channel: string }[] }
  }
  const admin = `Bearer ${token({ admin: true })}`
  const listed = async () => (await get(admin)).body.find(({ channel }) => channel === 'listed')
  t.match(await listed(), { channel: 'listed', connections: 3, readers: 2, writers: 2 })
  writer.webSocket.close()
  await until(async () => ((await listed()) as { connections?: number })?.connections === 2)
  t.equal((await get()).status, 401)
  t.equal((await get('Bearer nonsense')).status, 401)
  t.equal((await get(`Basic ${rw}`)).status, 401)
  t.equal((await get(`Bearer ${rw}`)).status, 403)
  t.equal((await get(`Bearer ${token({ admin: 'true' })}`)).status, 403)
  t.equal((await get(`Bearer ${token({ admin: true, exp: 1 })}`)).status, 401)
})

t.test('POST /publish', async (t) => {
  t.test("publishes to one or several channels, and lists, with the token's claims", async (t) => {
    const client = await open(t, `${ws}/${token({ mode: 'r', channels: ['p1', 'p2'] })}`)
    t.match(await post({ channel: 'p1', payload: 'text' }), {
      status: 202,
      body: { accepted: [{ channels: ['p1'] }] }
    })
    t.match(await post({ channels: ['p1', 'p2'], payload: { a: [1, null] } }), { status: 202 })
    t.match(
      await post([
        { channel: 'p2', payload: null },
        { channels: ['p1'], payload: 5 }
      ]),
      { status: 202 }
    )
    const got = (await client.received(5)).map((text) => JSON.parse(text))
    t.same(
      got.map(({ channel, payload }) => [channel, payload]),
      [
        ['p1', 'text'],
        ['p1', { a: [1, null] }],
        ['p2', { a: [1, null] }],
        ['p2', null],
        ['p1', 5]
      ]
    )
    for (const message of got) {
      t.equal(message.event, 'WebsocketMessage')
      t.match(message.claims, { mode: 'rw', sub: 'me', message_delivered_at: Number })
    }
  })

  t.test('an administrator can publish as somebody else, and readers see only that name', async (t) => {
    const client = await open(t, `${ws}/as/${token({ mode: 'r' })}`)
    const admin = token({ mode: 'rw', admin: true, sub: 'operator', name: 'Olga' })
    const as = '<img onerror=x> "ann" ü'
    t.equal((await post({ channel: 'as', payload: 1, as }, { bearer: admin })).status, 202)
    const asked = await fetch(`${http}/publish?as=bob&confirm=true`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${admin}` },
      body: JSON.stringify([
        { channel: 'as', payload: 2 },
        { channel: 'as', payload: 3 }
      ])
    })
    t.match(await asked.json(), { delivered: 2 })
    t.equal((await post({ channel: 'as', payload: 4 }, { bearer: admin })).status, 202)
    const claims = (await client.received(4)).map((text) => JSON.parse(text).claims)
    for (const [index, sub] of [as, 'bob', 'bob'].entries()) {
      t.same(claims[index], { sub, message_delivered_at: claims[index].message_delivered_at })
    }
    t.match(claims[3], { sub: 'operator', name: 'Olga', admin: true })
    t.match(await post({ channel: 'as', payload: 5, as: 'ann' }), {
      status: 403,
      body: { code: 'FST_PGWS_ADMIN_ONLY' }
    })
    for (const wrong of ['', 5, null, ['ann'], {}]) {
      t.match(await post({ channel: 'as', payload: 6, as: wrong }, { bearer: admin }), {
        status: 400,
        body: { message: /"as" must be a non-empty string/ }
      })
    }
    t.match(await post([{ channel: 'as', payload: 7, as: 'ann' }], { bearer: admin }), {
      status: 400,
      body: { message: /item 0 of the list must not have "as": add \?as= to the address/ }
    })
    t.equal(client.messages.length, 4)
    t.match(
      lines.map((line) => JSON.parse(line)).filter(({ msg }) => /published/.test(msg)),
      [
        {
          msg: `the administrator "operator" published 1 message as ${JSON.stringify(as)}`,
          channels: ['as']
        },
        { msg: 'the administrator "operator" published 2 messages as "bob"', channels: ['as'], count: 2 }
      ]
    )
  })

  t.test('publishes a list completely or not at all', async (t) => {
    const { payloads } = await sqlListener(t, dbUri)
    const large = await post([
      { channel: 'a', payload: 'x' },
      { channel: 'a', payload: 'y'.repeat(8000) }
    ])
    t.equal(large.status, 413)
    const foreign = await post(
      [
        { channel: 'a', payload: 'x' },
        { channel: 'b', payload: 'x' }
      ],
      {
        bearer: token({ mode: 'w', channels: ['a'] })
      }
    )
    t.equal(foreign.status, 403)
    await post({ channel: 'a', payload: 'last' })
    await until(() => payloads.length > 0)
    t.same(
      payloads.map((text) => JSON.parse(text).payload),
      ['last']
    )
  })

  t.test('delivers all identical messages of a list', async (t) => {
    const client = await open(t, `${ws}/same/${token({ mode: 'r' })}`)
    t.equal((await post(Array(20).fill({ channel: 'same', payload: 'x' }))).status, 202)
    t.equal((await client.received(20)).length, 20)
  })

  t.test('answers 400 to a malformed body, and says what was expected', async (t) => {
    for (const body of [
      [],
      {},
      5,
      '"text"',
      'null',
      { channel: 'a' },
      { payload: 'x' },
      { channel: '', payload: 'x' },
      { channel: 5, payload: 'x' },
      { channel: null, payload: 'x' },
      { channels: [], payload: 'x' },
      { channels: 'a', payload: 'x' },
      { channels: ['a', 5], payload: 'x' },
      { channel: 'a', channels: ['a'], payload: 'x' },
      [{ channel: 'a', payload: 'x' }, []],
      { channel: 'a\0', payload: 'x' },
      { channel: 'a', payload: 'x\0' },
      { channel: 'a', payload: { deep: ['\ud800'] } },
      '{"channel":"a","payload":'
    ]) {
      const { status, body: answer } = await post(body)
      t.equal(status, 400, JSON.stringify(body))
      t.match(answer, { statusCode: 400, error: 'Bad Request', message: String })
    }
    t.equal((await post('channel=a', { type: 'application/x-www-form-urlencoded' })).status, 415)
  })

  t.test('answers 401 without a valid token, and 403 if it does not allow writing', async (t) => {
    t.equal((await post({ channel: 'a', payload: 'x' }, { bearer: '' })).status, 401)
    t.equal((await post({ channel: 'a', payload: 'x' }, { bearer: 'nonsense' })).status, 401)
    t.equal(
      (await post({ channel: 'a', payload: 'x' }, { bearer: token({ mode: 'rw', exp: 1 }) })).status,
      401
    )
    for (const claims of [
      { mode: 'r' },
      {},
      { mode: 'x' },
      { mode: 'w', channels: ['b'] },
      { mode: 'w', channels: 'a' }
    ]) {
      t.equal((await post({ channel: 'a', payload: 'x' }, { bearer: token(claims) })).status, 403)
    }
  })

  t.test('answers 404 to other methods', async (t) => {
    t.equal((await fetch(`${http}/publish`)).status, 404)
    t.equal((await fetch(`${http}/channels`, { method: 'DELETE' })).status, 404)
    t.equal((await fetch(`${http}/health`, { method: 'POST' })).status, 404)
  })
})

t.test('rejects misspelled parameters and members by name', async (t) => {
  const admin = token({ admin: true, mode: 'rw' })
  const ask = async (method: string, path: string, body?: string) => {
    const headers = { authorization: `Bearer ${admin}`, ...(body && { 'content-type': 'application/json' }) }
    const response = await fetch(`${http}${path}`, { method, headers, ...(body && { body }) })
    return { status: response.status, ...((await response.json()) as { message?: string }) }
  }
  const kept = await open(t, `${ws}/kept/${token({ mode: 'r', sub: 'ann' })}`)
  for (const [method, path, message] of [
    ['GET', '/channels?scop=cluster', /"scop" is unknown here: there are "scope"/],
    ['GET', '/nodes?scope=cluster', /"scope" is unknown here: there are none/],
    ['GET', '/connections?sub=ann', /"sub" is unknown here: there are .*"subject"/],
    ['DELETE', '/connections?subject=nobody&chanel=kept', /"chanel" is unknown here: there are .*"channel"/],
    ['DELETE', '/connections/some-id?resaon=x', /"resaon" is unknown here: there are "code", "reason"/],
    ['GET', '/channels/a/history?sinec=x', /"sinec" is unknown here: there are "order", "since"/],
    ['GET', '/channels/a/b/history?sinec=x', /"sinec" is unknown here/],
    ['GET', '/channels/a/presence?limit=5', /"limit" is unknown here: there are none/],
    ['GET', `/channels?${'x'.repeat(5000)}=`, /"x{50}" is unknown/]
  ] as const) {
    t.match(
      await ask(method, path),
      { status: 400, code: 'FST_PGWS_BAD_QUERY', message },
      `${method} ${path.slice(0, 60)}`
    )
  }
  t.match(await ask('DELETE', '/connections?subject=ann', '{"raeson":"x"}'), {
    status: 400,
    message: /in the body, "raeson" is unknown here: there are "code", "reason"/
  })
  const message = { channel: 'kept', payload: 1 }
  for (const [path, body, expected] of [
    [
      '/publish',
      { ...message, cofirm: true },
      /in the body, "cofirm" is unknown here: there are .*"confirm"/
    ],
    ['/publish', [message, { ...message, Channel: 'a' }], /in item 1 of the list, "Channel" is unknown/],
    ['/publish?cofirm=true', message, /"cofirm" is unknown here: there are "confirm"/],
    ['/publish', '{"channel":"kept","payload":1,"__proto__":{}}', /"__proto__" is unknown/]
  ] as const) {
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    t.match(await ask('POST', path, text), { status: 400, message: expected }, text)
  }
  // Monitors may add any parameter.
  for (const path of ['/health?x=1', '/metrics?x=1']) t.equal((await fetch(`${http}${path}`)).status, 200)
  // Nothing was closed or published.
  await post({ channel: 'kept', payload: 'after all' })
  t.match(await kept.received(1), [/after all/])
})

t.test('the OpenAPI 3.1 document describes the routes, and has a page', async (t) => {
  const document = (await (await fetch(`${http}/documentation/json`)).json()) as {
    openapi: string
    paths: object
  }
  t.match(document.openapi, /^3\.1/)
  t.same(Object.keys(document.paths).sort(), [
    '/channels',
    '/channels/{channel}/history',
    '/channels/{channel}/presence',
    '/connections',
    '/connections/{id}',
    '/events',
    '/health',
    '/health/live',
    '/health/ready',
    '/metrics',
    '/nodes',
    '/publish',
    '/retention',
    '/revocations',
    '/revocations/{id}',
    '/watches'
  ])
  const page = await fetch(`${http}/documentation`)
  t.equal(page.status, 200)
  t.match(page.headers.get('content-type'), /html/)
})

t.test('no answer and no log line shows a token', async (t) => {
  const { http, ws, lines } = await build(t, { dbUri })
  const secretPart = rw.split('.')[2]!
  for (const [method, path] of [
    ['GET', `/chat/${rw}`],
    ['GET', `/${rw}`],
    ['POST', `/chat/${rw}`],
    ['GET', `/chat/${rw}/more`],
    ['GET', `/a%zz/${rw}`],
    ['GET', `/${rw}%zz`],
    ['GET', `/chat/${rw}${'x'.repeat(500)}`]
  ] as const) {
    const response = await fetch(http + path, { method })
    t.ok(response.status === 404 || response.status === 400, `${method} ${response.status}`)
    t.notMatch(await response.text(), secretPart)
  }
  const client = await open(t, `${ws}/chat/${rw}`)
  client.webSocket.terminate()
  for (const path of [`/a%zz/${rw}`, `/chat/${rw.slice(0, -3)}`, `/${rw}`, `/%00/${rw}`, `//${rw}`]) {
    await t.rejects(open(t, ws + path))
  }
  await until(() => lines.some((line) => line.includes('socket closed')))
  t.notMatch(lines.join(''), secretPart.slice(0, -3))
  t.ok(lines.length > 10)
})

t.test('answers incomplete upgrades and other malformed requests, and continues', async (t) => {
  const { connect } = await import('node:net')
  const port = Number(new URL(http).port)
  const raw = (text: string) =>
    new Promise<string>((resolve) => {
      let answer = ''
      const socket = connect(port, '127.0.0.1', () => socket.write(text))
      socket.on('data', (chunk) => {
        answer += chunk
        if (/^HTTP\/1\.1 (?!101)/.test(answer)) socket.end()
      })
      socket.on('close', () => resolve(answer))
      socket.on('error', () => resolve(answer))
    })
  const head = (path: string, lines: string[] = []) =>
    `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${lines.map((line) => `${line}\r\n`).join('')}\r\n`
  const upgrade = ['Upgrade: websocket', 'Connection: Upgrade']
  t.match(await raw(head(`/chat/${rw}`, ['Upgrade: websocket'])), /^HTTP\/1\.1 426/)
  t.match(await raw(head(`/chat/${rw}`, upgrade)), /^HTTP\/1\.1 400/)
  t.match(await raw(head(`/chat/${rw}`, [...upgrade, 'Sec-WebSocket-Version: 13'])), /^HTTP\/1\.1 400/)
  t.match(
    await raw(head(`/chat/${rw}`, [...upgrade, 'Sec-WebSocket-Key: short', 'Sec-WebSocket-Version: 13'])),
    /^HTTP\/1\.1 400/
  )
  t.match(await raw(head(`/chat/${'x'.repeat(65536)}`, upgrade)), /^HTTP\/1\.1 431/)
  t.match(await raw('nonsense\r\n\r\n'), /^HTTP\/1\.1 400/)
  const early = await raw(
    `${head(`/chat/bad`, [
      ...upgrade,
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
      'Sec-WebSocket-Version: 13'
    ])}\x81\x85\x00\x00\x00\x00hello`
  )
  t.match(early, /^HTTP\/1\.1 401/)
  t.equal((await fetch(`${http}/health`)).status, 200)
})

t.test('without a database, GET /health and POST /publish answer 503, and sockets stay open', async (t) => {
  const client = await open(t, `${ws}/away/${rw}`)
  postgres.kill('SIGQUIT')
  await postgres.exited
  await until(async () => (await fetch(`${http}/health`)).status === 503)
  t.equal((await fetch(`${http}/health/live`)).status, 200)
  t.equal((await fetch(`${http}/health/ready`)).status, 503)
  const answer = await post({ channel: 'away', payload: 'x' })
  t.equal(answer.status, 503)
  t.ok(Number(answer.headers.get('retry-after')) > 0)
  await postgres.restart()
  await until(async () => (await fetch(`${http}/health`)).status === 200)
  t.equal((await post({ channel: 'away', payload: 'back' })).status, 202)
  t.equal(JSON.parse((await client.received(1))[0]!).payload, 'back')
  t.equal(fastify.pgws.listenerState.reconnects, 1)
  t.ok((await query(dbUri, 'select 1')).rowCount)
})
