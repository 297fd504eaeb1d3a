import type { JsonText } from '../../../json-text.js'
import type { PresenceMember } from '../../../messages/index.js'
import type { Disconnect, ProtocolError } from './protocol.js'

/** What the server sends besides publications, by the names of the protocol, whichever encoding a client speaks. */
export type Reply = Answer | { id: number; error: ProtocolError } | { push: Push }

/** The answer to a command. */
type Answer = { [M in Method]: { id: number; method: M; result: Results[M] } }[Method]

/** The methods that are answered with a result. */
export type Method = keyof Results

/** The results of the methods. */
export interface Results {
  connect: ConnectResult
  subscribe: SubscribeResult
  unsubscribe: Empty
  publish: Empty
  presence: { presence: Record<string, ClientInfo> }
  presence_stats: { num_clients: number; num_users: number }
  history: HistoryResult
  ping: Empty
  refresh: Lifetime
  sub_refresh: Lifetime
}

type Empty = Record<string, never>

/** Whether a token expires, and after how many seconds. */
export interface Lifetime {
  expires?: boolean
  ttl?: number
}

export interface ConnectResult extends Lifetime {
  client: string
  version: string
  /** How often the server pings, in seconds. */
  ping: number
  /** Whether it expects answers to its pings. */
  pong: boolean
  /** What a client on an HTTP transport sends with its commands. */
  session?: string
  node?: string
  /** The subscriptions that the claim `subs` of its token asks for. */
  subs?: Record<string, SubscribeResult> | undefined
}

export interface SubscribeResult extends Lifetime {
  recoverable?: boolean
  positioned?: boolean
  epoch?: string
  offset?: number
  was_recovering?: boolean
  recovered?: boolean
  publications?: EncodedPublications
  /** A JSON value. */
  data?: unknown
}

export interface HistoryResult {
  epoch: string
  offset?: number
  publications?: EncodedPublications
}

/** Publications in the encoding of the client that they are for (`SdkFormat.publications`). */
export type EncodedPublications = readonly Buffer[]

/** What others see of a client. */
export interface ClientInfo {
  user: string
  client: string
  /** A JSON value. */
  conn_info?: unknown
}

/** What the server sends of its own accord. Publications are encoded apart, because they are many. */
export type Push =
  | { channel: string; join: { info: ClientInfo } }
  | { channel: string; leave: { info: ClientInfo } }
  | { channel: string; unsubscribe: Disconnect }
  | { message: { data: JsonText } }
  | { disconnect: Disconnect }

/** A presence member in the terms of the protocol. */
export function clientInfo({ client, user, info }: PresenceMember): ClientInfo {
  return { user, client, ...(info !== undefined && { conn_info: info }) }
}
