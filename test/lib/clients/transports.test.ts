import t from 'tap'
import { stream } from '../../support/event-stream.js'
import { build, open, token, until, withPostgres } from '../../support/helper.js'
import { PROTOBUF_SDK, sdk } from '../../support/sdk.js'
import { streaming } from '../../support/streams.js'

const { database } = await withPostgres(t)

interface Connection {
  subject: string
  transport: string
  protocol?: string
}

t.test('GET /connections and the metrics name the transport of each client', async (t) => {
  const { http, ws } = await build(t, { dbUri: await database() })
  const admin = { headers: { authorization: `Bearer ${token({ admin: true })}` } }
  const listed = async () => (await (await fetch(`${http}/connections`, admin)).json()) as Connection[]
  const metrics = async () => {
    const text = await (await fetch(`${http}/metrics`)).text()
    return Object.fromEntries(
      [...text.matchAll(/^pgws_connections{transport="(.*)"} (.*)$/gm)].map(([, name, count]) => [
        name,
        Number(count)
      ])
    )
  }
  const none = { websocket: 0, 'event-stream': 0, 'sdk-websocket': 0, 'sdk-sse': 0, 'sdk-http-stream': 0 }
  t.same(await metrics(), none)

  const as = (sub: string) => token({ mode: 'r', sub, channels: ['a'] })
  const raw = await open(t, `${ws}/a/${as('raw')}`)
  const events = await stream(t, `${http}/a/${as('events')}`)
  const clients = [
    sdk(t, ws, { token: as('json') }),
    sdk(t, ws, { token: as('protobuf') }, PROTOBUF_SDK),
    streaming(t, 'sse', { http }, { token: as('sse') }),
    streaming(t, 'http_stream', { http }, { token: as('lines') }),
    streaming(t, 'http_stream', { http }, { token: as('bytes') }, PROTOBUF_SDK)
  ]
  for (const client of clients) client.connect()
  await until(async () => (await listed()).length === 7)
  const transports = (await listed()).map(({ subject, transport, protocol }) => [
    subject,
    `${transport} ${protocol ?? ''}`
  ])
  t.same(Object.fromEntries(transports), {
    raw: 'websocket ',
    events: 'event-stream ',
    json: 'sdk-websocket json',
    protobuf: 'sdk-websocket protobuf',
    sse: 'sdk-sse json',
    lines: 'sdk-http-stream json',
    bytes: 'sdk-http-stream protobuf'
  })
  t.same(await metrics(), {
    websocket: 1,
    'event-stream': 1,
    'sdk-websocket': 2,
    'sdk-sse': 1,
    'sdk-http-stream': 2
  })

  raw.webSocket.close()
  events.response.destroy()
  for (const client of clients) client.disconnect()
  await until(async () => (await listed()).length === 0)
  t.same(await metrics(), none)
})
