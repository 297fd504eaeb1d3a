import { Centrifuge } from 'centrifuge'
import { Centrifuge as CentrifugeProtobuf } from 'centrifuge/build/protobuf'
import { Centrifuge as Centrifuge53 } from 'centrifuge-5-3'
import { Centrifuge as CentrifugeProtobuf53 } from 'centrifuge-5-3/build/protobuf'
import { Centrifuge as Centrifuge57 } from 'centrifuge-5-7'
import { Centrifuge as CentrifugeProtobuf57 } from 'centrifuge-5-7/build/protobuf'
import { WebSocket } from 'ws'
import type { Owner } from './helper.js'
import { jsonOverProtobuf } from './json-over-protobuf.js'

export type { Centrifuge }

/** The tested versions of the SDK. */
export const SDKS: Record<string, typeof Centrifuge> = {
  '5.3': Centrifuge53 as unknown as typeof Centrifuge,
  '5.7': Centrifuge57 as unknown as typeof Centrifuge,
  '5.8': Centrifuge
}

/** The SDK for protobuf as applications use it: payloads are bytes. */
export const PROTOBUF_SDK = CentrifugeProtobuf as unknown as typeof Centrifuge

/** Whether the SDKs speak JSON or protobuf. */
export let encoding: 'json' | 'protobuf' = 'json'

/** Makes all SDKs speak protobuf, so that a test file can run the tests of another one, which are written for JSON. */
export function speakProtobuf(): void {
  encoding = 'protobuf'
  SDKS['5.3'] = jsonOverProtobuf(CentrifugeProtobuf53)
  SDKS['5.7'] = jsonOverProtobuf(CentrifugeProtobuf57)
  SDKS['5.8'] = jsonOverProtobuf(CentrifugeProtobuf)
}

const sockets = new WeakMap<Centrifuge, WebSocket>()

/**
 * Connects a client of the SDK. It is disconnected after the test.
 * @param endpoints the endpoints to connect to, instead of one server
 */
export function sdk(
  t: Owner,
  ws: string,
  options: object,
  Sdk = SDKS['5.8']!,
  endpoints?: { transport: 'websocket'; endpoint: () => string }[]
): Centrifuge {
  let client: Centrifuge | undefined
  class Recorded extends WebSocket {
    constructor(url: string, protocols?: string[]) {
      // The SDK accepts only a constant address, so the endpoint is chosen here.
      super(endpoints === undefined ? url : endpoints[0]!.endpoint(), protocols)
      this.on('error', () => {})
      if (client !== undefined) sockets.set(client, this)
    }
  }
  const url = endpoints === undefined ? `${ws}/connection/websocket` : 'ws://localhost/connection/websocket'
  client = new Sdk(url, {
    websocket: Recorded,
    minReconnectDelay: 50,
    maxReconnectDelay: 500,
    // On a busy machine, answers may be late.
    timeout: 20_000,
    ...options
  } as never)
  t.teardown(() => client.disconnect())
  return client
}

/** The websocket of a client, for tests that break it. */
export function raw(client: Centrifuge): WebSocket | undefined {
  return sockets.get(client)
}

/** Subscribes to a channel, and collects publications and contexts. */
export function subscribed(client: Centrifuge, channel: string, options: object = {}) {
  const subscription = client.newSubscription(channel, { minResubscribeDelay: 50, ...options } as never)
  const got: { data: unknown; offset?: number; tags?: unknown; info?: unknown }[] = []
  const contexts: { wasRecovering: boolean; recovered: boolean }[] = []
  subscription.on('publication', (context) => got.push(context as never))
  subscription.on('subscribed', (context) => contexts.push(context as never))
  subscription.subscribe()
  return { subscription, got, contexts }
}
