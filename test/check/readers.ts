import { type ClientRequest, request } from 'node:http'
import type { Centrifuge } from 'centrifuge'
import { WebSocket } from 'ws'
import { Stream } from '../support/event-stream.js'
import { token } from '../support/helper.js'
import { raw, sdk } from '../support/sdk.js'
import { COMPLETE, EPHEMERAL } from './channels.js'
import type { History, Reader } from './history.js'
import type { Random } from './random.js'
import type { Owner, Target } from './target.js'

/** The pause before a reader connects again, in milliseconds. */
const PAUSE = 50

interface Message {
  id?: string
  pgws?: boolean
  event?: string
  channel: string
  payload: unknown
}

/** The id that a writer gave to a message: the first word of a text, or a column of a row. */
function idOf(payload: unknown): string {
  if (typeof payload === 'string') return payload.split(' ', 1)[0]!
  const row = payload as { record?: { message?: string }; payload?: unknown }
  return row.record?.message ?? (row.payload === undefined ? JSON.stringify(payload) : idOf(row.payload))
}

/** All readers of a run. */
export class Readers {
  readonly #target: Target
  readonly #history: History
  readonly #random: Random
  #over = false
  /** Functions that break the connection of one reader each. */
  readonly #breaks: (() => void)[] = []

  constructor(target: Target, history: History, random: Random) {
    this.#target = target
    this.#history = history
    this.#random = random
  }

  /** Resolves when all readers are connected. */
  async start(owner: Owner): Promise<void> {
    const ready: Promise<void>[] = []
    for (const n of [0, 1]) ready.push(this.#socket(`socket-${n}`, COMPLETE, true))
    for (const n of [0, 1]) ready.push(this.#socket(`ephemeral-socket-${n}`, EPHEMERAL, false))
    ready.push(this.#eventStream('event-stream', COMPLETE))
    ready.push(this.#sdk(owner))
    owner.teardown(() => this.stop())
    await Promise.all(ready)
  }

  /** Breaks the connection of a reader, which reconnects. */
  break(): void {
    this.#random.one(this.#breaks)()
  }

  stop(): void {
    this.#over = true
    for (const end of this.#breaks) end()
  }

  #reader(name: string, channels: string[], complete: boolean, kind = 'id'): Reader {
    const reader: Reader = { name, channels, complete, kind, deliveries: [], gaps: [], connections: 0 }
    this.#history.readers.push(reader)
    return reader
  }

  #receive(reader: Reader, { id, pgws, event, channel, payload }: Message): void {
    if (pgws && event === 'HistoryGap') reader.gaps.push(this.#history.now())
    else if (!pgws) {
      const position = id === undefined ? {} : { position: id }
      reader.deliveries.push({ message: idOf(payload), channel, at: this.#history.now(), ...position })
    }
  }

  #socket(name: string, channels: string[], complete: boolean): Promise<void> {
    let reader = this.#reader(name, channels, complete)
    const address = token({ mode: 'r', channels })
    let last = 'earliest'
    let visits = 0
    let webSocket: WebSocket | undefined
    this.#breaks.push(() => webSocket?.terminate())
    return new Promise((ready) => {
      const connect = () => {
        if (this.#over) return
        const url = `${this.#target.node(this.#random).ws}/${address}${complete ? `?since=${last}` : ''}`
        const opened = new WebSocket(url, { handshakeTimeout: 5000 })
        webSocket = opened
        opened.on('error', () => {})
        opened.on('open', () => {
          // Without durable channels, a connection does not continue the one before.
          if (!complete && visits > 0) reader = this.#reader(`${name}.${visits}`, channels, false)
          visits++
          reader.connections++
          ready()
        })
        opened.on('message', (data) => {
          const message = JSON.parse(String(data)) as Message
          last = message.id ?? last
          this.#receive(reader, message)
        })
        opened.on('close', () => setTimeout(connect, PAUSE))
      }
      connect()
    })
  }

  #eventStream(name: string, channels: string[]): Promise<void> {
    const reader = this.#reader(name, channels, true)
    const address = token({ mode: 'r', channels })
    let last: string | undefined
    let sent: ClientRequest | undefined
    this.#breaks.push(() => sent?.destroy())
    return new Promise((ready) => {
      const connect = () => {
        if (this.#over) return
        const since = last === undefined ? '?since=earliest' : ''
        const asked = request(`${this.#target.node(this.#random).http}/${address}${since}`, {
          headers: { accept: 'text/event-stream', ...(last !== undefined && { 'last-event-id': last }) },
          agent: false
        }).end()
        sent = asked
        asked.on('error', () => {})
        asked.on('response', (response) => {
          if (response.statusCode !== 200) return void response.destroy()
          reader.connections++
          ready()
          const stream = new Stream(response, ({ id, data }) => {
            last = id ?? last
            this.#receive(reader, { ...(JSON.parse(data) as Message), ...(id !== undefined && { id }) })
          })
          stream.ended.catch(() => {})
        })
        asked.on('close', () => setTimeout(connect, PAUSE))
      }
      connect()
    })
  }

  /** A client of an SDK has a subscription for each channel. Each recovers by itself, so each is a reader. */
  async #sdk(owner: Owner): Promise<void> {
    const transport = 'websocket' as const
    const client: Centrifuge = sdk(owner, '', { token: token({ mode: 'r' }) }, undefined, [
      { transport, endpoint: () => `${this.#target.node(this.#random).ws}/connection/websocket` }
    ])
    this.#breaks.push(() => raw(client)?.terminate())
    const subscriptions = COMPLETE.map((channel) => {
      const reader = this.#reader(`sdk-${channel}`, [channel], true, 'offset')
      const subscription = client.newSubscription(channel, {
        minResubscribeDelay: PAUSE,
        maxResubscribeDelay: 500
      })
      subscription.on('publication', ({ data, offset }) =>
        reader.deliveries.push({
          message: idOf(data),
          channel,
          at: this.#history.now(),
          ...(offset !== undefined && { position: String(offset).padStart(20, '0') })
        })
      )
      subscription.on('subscribed', ({ wasRecovering, recovered }) => {
        reader.connections++
        if (wasRecovering && !recovered) reader.gaps.push(this.#history.now())
      })
      subscription.subscribe()
      return subscription
    })
    client.connect()
    await Promise.all(subscriptions.map((subscription) => subscription.ready(60_000)))
  }
}

/** Reads the stored messages at the end, as another reader of each channel. */
export async function readHistory(history: History, target: Target): Promise<void> {
  for (const channel of COMPLETE) {
    const deliveries: Reader['deliveries'] = []
    const reader: Reader = {
      name: `stored-${channel}`,
      channels: [channel],
      complete: true,
      kind: 'id',
      deliveries,
      gaps: [],
      connections: 1
    }
    history.readers.push(reader)
    for (;;) {
      const { rows } = await target.query(
        'select id, message::json as message from pgws.history($1, $2, 1000)',
        [channel, deliveries.at(-1)?.position ?? null]
      )
      if (rows.length === 0) break
      for (const { id, message } of rows) {
        deliveries.push({ message: idOf(message.payload), channel, at: history.now(), position: id })
      }
    }
  }
}
