import type { Test } from 'tap'
import { stream } from './event-stream.js'
import { open, query, token, until } from './helper.js'
import { jsonOverProtobuf } from './json-over-protobuf.js'
import { PROTOBUF_SDK, SDKS, sdk, subscribed } from './sdk.js'

/** A message as a reader gets it, or as it was published. */
export interface Got {
  /** What says where the message is in the order of all, if it was received or is stored. */
  id?: string
  channel: string
  payload: unknown
}

/** A client of any kind. */
export interface AnyReader {
  name: string
  channels: readonly string[]
  /** What it has got so far, in order. */
  got: () => Got[]
  /** Whether it knows ids as they are stored. */
  ids: boolean
}

type App = { ws: string; http: string }

/** The kinds of clients: each reads channels at a server, from now on, or everything that is stored. */
export type Kind = keyof typeof KINDS

const readAll = (channels: readonly string[]) => token({ mode: 'rw', channels })
const since = (earliest: boolean) => (earliest ? '?since=earliest' : '')
const read = (texts: string[]): Got[] =>
  texts.map((text) => {
    const { id, channel, payload, event, pgws } = JSON.parse(text)
    // An event of the server, such as HistoryGap, is none of the messages that are expected.
    const message = { channel, payload: pgws ? { event, payload } : payload }
    return id === undefined ? message : { id, ...message }
  })

const sdkReader =
  (Sdk: typeof PROTOBUF_SDK) =>
  async (t: Test, { ws }: App, channels: readonly string[], earliest: boolean): Promise<AnyReader[]> => {
    const client = sdk(t, ws, { token: token({ mode: 'rw' }) }, Sdk)
    client.connect()
    await client.ready(60_000)
    return Promise.all(
      channels.map(async (channel) => {
        const { epoch } = earliest ? await client.history(channel, { limit: 0 }) : { epoch: '' }
        const { subscription, got } = subscribed(
          client,
          channel,
          earliest ? { since: { offset: 0, epoch } } : {}
        )
        await subscription.ready(60_000)
        return {
          name: '',
          channels: [channel],
          got: () => got.map(({ data }) => ({ channel, payload: data })),
          ids: false
        }
      })
    )
  }

const KINDS = {
  websocket: async (t: Test, { ws }: App, channels: readonly string[], earliest: boolean) => {
    const { messages } = await open(t, `${ws}/${readAll(channels)}${since(earliest)}`)
    return [{ name: '', channels, got: () => read(messages), ids: true }]
  },
  'event stream': async (t: Test, { http }: App, channels: readonly string[], earliest: boolean) => {
    const { events } = await stream(t, `${http}/${readAll(channels)}${since(earliest)}`)
    return [{ name: '', channels, got: () => read(events.map(({ data }) => data)), ids: true }]
  },
  SDK: sdkReader(SDKS['5.8']!),
  'SDK with protobuf': sdkReader(jsonOverProtobuf(PROTOBUF_SDK))
} satisfies Record<
  string,
  (t: Test, app: App, channels: readonly string[], earliest: boolean) => Promise<AnyReader[]>
>

export const ALL_KINDS = Object.keys(KINDS) as Kind[]

/**
 * Opens a reader, and resolves when it has been accepted. Of an SDK it is one reader for each channel, because an SDK
 * recovers each by itself.
 * @param earliest whether it begins with everything that is stored
 */
export async function reader(
  t: Test,
  kind: Kind,
  app: App,
  channels: readonly string[],
  earliest = false
): Promise<AnyReader[]> {
  const all = await KINDS[kind](t, app, channels, earliest)
  return all.map((one) => ({ ...one, name: `${kind} of ${one.channels.join(', ').slice(0, 20)}` }))
}

/** Readers of each kind at a server. One more websocket reads each channel alone. */
export async function everyReader(
  t: Test,
  app: App,
  channels: readonly string[],
  earliest = false
): Promise<AnyReader[]> {
  const groups = await Promise.all([
    ...ALL_KINDS.map((kind) => reader(t, kind, app, channels, earliest)),
    ...channels.map((channel) => reader(t, 'websocket', app, [channel], earliest))
  ])
  return groups.flat()
}

/** What is stored, in order. */
export async function stored(dbUri: string): Promise<Got[]> {
  await query(dbUri, 'select pgws.catch_up()')
  const { rows } = await query(
    dbUri,
    `select pgws.message_id(position) as id, channel, body::json -> 'payload' as payload from pgws.messages order by position`
  )
  return rows
}

/** Waits until readers have got messages, each those of its channels, and compares: nothing else, once, and in order. */
export async function compare(
  t: Test,
  readers: readonly AnyReader[],
  messages: readonly Got[]
): Promise<void> {
  for (const { name, channels, got, ids } of readers) {
    const expected = messages
      .filter(({ channel }) => channels.includes(channel))
      .map(({ id, ...message }) => (ids && id !== undefined ? { id, ...message } : message))
    await until(() => got().length >= expected.length).catch((error) => {
      throw new Error(`${name} has ${got().length} of ${expected.length} messages: ${error.message}`)
    })
    // A difference in thousands of messages would fill pages.
    const received = got()
    const first = received.findIndex((one, n) => !same(one, expected[n]))
    t.equal(received.length, expected.length, `${name}: how many`)
    t.same(
      first === -1 ? [] : [first, ...received.slice(first, first + 3)],
      first === -1 ? [] : [first, ...expected.slice(first, first + 3)],
      `${name}: all of them, in order`
    )
  }
}

const same = (one: Got | undefined, other: Got | undefined) => text(one) === text(other)
const text = (one: Got | undefined) =>
  one === undefined ? '' : JSON.stringify([one.id, one.channel, one.payload])
