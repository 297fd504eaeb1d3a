import { once } from 'node:events'
import { type ClientRequest, get, type IncomingMessage, request } from 'node:http'
import type { Test } from 'tap'
import { until } from './helper.js'
import { type Centrifuge, encoding, SDKS } from './sdk.js'

export type Transport = 'sse' | 'http_stream'
/** Server-sent events are text, so they do not carry protobuf. */
export const TRANSPORTS: Transport[] = encoding === 'protobuf' ? ['http_stream'] : ['sse', 'http_stream']

/** The part of a browser's EventSource that the SDK uses. */
class EventSource {
  onopen: (() => void) | undefined
  onmessage: ((event: { data: string }) => void) | undefined
  onerror: ((error: unknown) => void) | undefined
  readonly #request: ClientRequest
  #closed = false

  constructor(url: string) {
    this.#request = get(url, { headers: { accept: 'text/event-stream' } }, (response) => {
      if (response.statusCode !== 200) return this.#fail(response.statusCode)
      this.onopen?.()
      let rest = ''
      response.setEncoding('utf8').on('data', (chunk: string) => {
        const lines = (rest + chunk).split('\n')
        rest = lines.pop()!
        for (const line of lines) {
          if (line.startsWith('data: ') && !this.#closed) this.onmessage?.({ data: line.slice(6) })
        }
      })
      response.on('close', () => this.#fail('ended')).on('error', () => {})
    }).on('error', (error) => this.#fail(error))
  }

  close(): void {
    this.#closed = true
    this.#request.destroy()
  }

  #fail(error: unknown): void {
    if (!this.#closed) this.onerror?.(error)
  }
}

const DISPATCHER = Symbol.for('undici.globalDispatcher.1')
type Dispatcher = { destroy(): Promise<void>; constructor: new () => Dispatcher }

/**
 * Disconnects a client. When a request is aborted, the `fetch` of Node.js opens another connection in advance, and a server
 * that closes would wait until that connection times out. So all connections of `fetch` are closed.
 */
export async function end(client: Centrifuge): Promise<void> {
  client.disconnect()
  const shared = globalThis as unknown as Record<symbol, Dispatcher>
  const dispatcher = shared[DISPATCHER]
  if (dispatcher === undefined) return
  try {
    shared[DISPATCHER] = new dispatcher.constructor()
  } catch {
    // Node.js 26 has another kind of dispatcher. There the server waits.
    return
  }
  await dispatcher.destroy()
}

/** The browser interfaces that the SDK needs in Node.js. */
export const BROWSER = {
  eventsource: EventSource,
  fetch(url: string, options: RequestInit) {
    const answer = fetch(url, options)
    // Older versions of the SDK do not handle a rejection.
    answer.catch(() => {})
    return answer
  },
  readableStream: ReadableStream
}

/**
 * Connects a client of the SDK without websockets. It is disconnected after the test.
 * @param http the address of the server for its stream
 * @param emulation the address of the server for its commands
 */
export function streaming(
  t: Test,
  transport: Transport,
  { http, emulation = http }: { http: string; emulation?: string },
  options: object,
  Sdk = SDKS['5.8']!
): Centrifuge {
  const client = new Sdk([{ transport, endpoint: `${http}/connection/${transport}` }], {
    ...BROWSER,
    emulationEndpoint: `${emulation}/emulation`,
    minReconnectDelay: 50,
    maxReconnectDelay: 500,
    ...options
  } as never)
  t.teardown(() => end(client))
  return client
}

/** A stream without the SDK. */
export class Stream {
  readonly response: IncomingMessage
  readonly lines: string[] = []
  text = ''

  constructor(response: IncomingMessage) {
    this.response = response
    response.setEncoding('utf8').on('data', (chunk: string) => {
      this.text += chunk
      this.lines.splice(
        0,
        this.lines.length,
        ...this.text
          .split(/\r?\n/)
          .map((line) => line.replace(/^data: /, ''))
          .filter((line) => line !== '')
      )
    })
    response.on('error', () => {})
  }

  /** Opens a stream. Does not check the status of the answer. */
  static async open(
    t: Test,
    url: string,
    commands: string,
    { method = 'POST', headers = {} }: { method?: string; headers?: Record<string, string> } = {}
  ): Promise<Stream> {
    const asked = request(url, { method, headers: { 'content-type': 'application/json', ...headers } })
    t.teardown(() => asked.destroy())
    asked.on('error', () => {})
    asked.end(commands)
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    return new Stream(response)
  }

  /** Resolves with the lines when there are `count` of them. */
  async received(count: number): Promise<Record<string, Record<string, unknown>>[]> {
    await until(() => this.lines.length >= count)
    return this.lines.map((line) => JSON.parse(line))
  }

  /** Resolves with the reason when the stream has ended. */
  async ended(): Promise<{ code: number; reason: string }> {
    await until(() => this.response.readableEnded || this.response.destroyed)
    return JSON.parse(this.lines.at(-1)!).push.disconnect
  }

  /** Sends commands through the emulation endpoint. */
  async send(http: string, data: string, changed: object = {}): Promise<Response> {
    const [reply] = await this.received(1)
    const { session, node } = reply!.connect as { session: string; node: string }
    return post(http, { session, node, data, ...changed })
  }
}

export function post(http: string, body: unknown): Promise<Response> {
  return fetch(`${http}/emulation`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body)
  })
}
