// Requests, several on one connection, upgrades among them.
import fc from 'fast-check'
import { anyChannel, anyText, anyToken, anyValue, CHANNELS, nearly, tokens } from '../values.js'
import { anyEnd, converse, head, UPGRADE } from './sockets.js'

const encoded = (text) =>
  fc.constantFrom(encodeURIComponent, encodeURI, String).map((as) => {
    try {
      return as(text)
    } catch {
      return encodeURIComponent(text.toWellFormed())
    }
  })
const anyPart = anyText.chain(encoded)
const channelPart = anyChannel.chain(encoded)
/** A channel of a stranger, with a token for it. */
const anyDoor = fc
  .tuple(fc.constantFrom(...CHANNELS), fc.constantFrom('r', 'w', 'rw'))
  .map(([channel, name]) => `/${encodeURIComponent(channel)}/${tokens[name]}`)
const anyPath = fc.oneof(
  { weight: 3, arbitrary: anyDoor },
  fc
    .tuple(channelPart, anyToken, fc.constantFrom('', '?', '/more', '?since=earliest', '?presence=true'))
    .map(([channel, name, rest]) => `/${channel}/${tokens[name]}${rest}`),
  fc.tuple(anyToken, anyPart).map(([name, since]) => `/${tokens[name]}?since=${since}&channel=${since}`),
  fc
    .tuple(
      fc.constantFrom(
        '/publish',
        '/channels',
        '/connections',
        '/nodes',
        '/presence',
        '/metrics',
        '/health',
        '/health/live',
        '/health/ready',
        '/emulation',
        '/connection/websocket',
        '/connection/sse',
        '/connection/http_stream',
        '/ws',
        '/documentation',
        '/documentation/json',
        '/table',
        '/token',
        '/'
      ),
      fc.dictionary(
        fc.constantFrom('scope', 'channel', 'subject', 'limit', 'since', 'cf_connect', 'confirm'),
        anyPart,
        {
          maxKeys: 3
        }
      )
    )
    .map(
      ([path, query]) =>
        `${path}?${Object.entries(query)
          .map((pair) => pair.join('='))
          .join('&')}`
    ),
  channelPart.map((channel) => `/channels/${channel}/history`),
  channelPart.map((channel) => `/channels/${channel}/presence`),
  anyPart.map((id) => `/connections/${id}`),
  anyPart.map((text) => `/${text}`)
)
const item = nearly({
  channel: anyChannel,
  channels: fc.array(anyChannel, { maxLength: 3 }),
  payload: anyValue
})
const anyBody = fc.oneof(
  fc.constant(''),
  item.map((value) => JSON.stringify(value)),
  fc.array(item, { maxLength: 4 }).map((value) => JSON.stringify(value)),
  anyValue.map((value) => JSON.stringify(value) ?? ''),
  anyText
)
const HEADERS = {
  Authorization: anyToken.map((name) => `Bearer ${tokens[name]}`),
  'Content-Type': fc.constantFrom('application/json', 'text/plain', 'application/octet-stream', 'x'),
  Accept: fc.constantFrom('text/event-stream', '*/*', 'text/event-stream;q=0', ','),
  'Last-Event-ID': anyText.map(inHeader),
  'Idempotency-Key': anyText.map(inHeader),
  Origin: fc.constantFrom('null', 'https://example.org', '\x80'),
  Connection: fc.constantFrom('keep-alive', 'close', 'Upgrade', 'upgrade, close'),
  Upgrade: fc.constantFrom('websocket', 'h2c', 'TLS/1.2', '', 'websocket, h2c'),
  Expect: fc.constantFrom('100-continue', 'nothing'),
  Cookie: fc.constantFrom('token=eyJ.eyJ.x', ';;;=', '__proto__=1')
}
const someHeaders = fc
  .array(fc.oneof(...Object.entries(HEADERS).map(([name, value]) => fc.tuple(fc.constant(name), value))), {
    maxLength: 3
  })
  .map((entries) => Object.fromEntries(entries))
const anyHeaders = fc.oneof(fc.constant({}), someHeaders)
const anyRequest = fc.record({
  method: fc.constantFrom(
    'GET',
    'GET',
    'GET',
    'POST',
    'POST',
    'DELETE',
    'OPTIONS',
    'HEAD',
    'PUT',
    'TRACE',
    'QUERY'
  ),
  path: anyPath,
  headers: anyHeaders,
  body: anyBody,
  upgrade: fc.boolean(),
  // How much the stated length differs from the real one.
  more: fc.constantFrom(0, 0, 0, 0, 5, -1)
})

/** Characters that a header may contain. */
function inHeader(text) {
  return encodeURIComponent(text.toWellFormed()).slice(0, 2000)
}

function bytesOf({ method, path, headers, body, upgrade, more }) {
  const common = upgrade ? { ...UPGRADE, ...headers } : { Host: 'localhost', ...headers }
  const content = Buffer.from(body)
  if (content.length > 0 && method !== 'GET') common['Content-Length'] = Math.max(0, content.length + more)
  const line = path.replace(/[\s\0]/g, '%20')
  return Buffer.concat([
    Buffer.from(head(method, line, common)),
    method === 'GET' ? Buffer.alloc(0) : content
  ])
}

export const http = fc.record({
  way: fc.constant('http'),
  requests: fc.array(anyRequest, { minLength: 1, maxLength: 4 }),
  together: fc.boolean(),
  end: anyEnd
})

export async function runHttp({ requests, together, end }, { port }) {
  const bytes = requests.map(bytesOf)
  const answer = await converse(port, together ? [Buffer.concat(bytes)] : bytes, end)
  if (/^HTTP\/1\.1 500/m.test(answer)) throw new Error(`a server error: ${answer.slice(0, 1000)}`)
}
