import type { Disconnect, ProtocolError } from './protocol.js'
import type {
  ClientInfo,
  ConnectResult,
  HistoryResult,
  Lifetime,
  Push,
  Results,
  SubscribeResult
} from './replies.js'

/**
 * The messages of Centrifugo's client protocol in protobuf: the names and numbers of their fields, as
 * https://github.com/centrifugal/protocol/blob/master/definitions/client.proto has them (MIT license, Centrifugal Labs).
 * What this server neither reads nor writes is left out. A reader skips it.
 */

/**
 * The type of a field. `json` is a field of bytes with the JSON text of a value. `publications` are messages that are
 * encoded already.
 */
export type FieldType =
  | 'uint32'
  | 'int32'
  | 'uint64'
  | 'bool'
  | 'string'
  | 'bytes'
  | 'json'
  | 'publications'
  | { message: Fields }
  | { map: Fields }

/** The fields of a message by name: number and type. */
export type Fields = Readonly<Record<string, readonly [number: number, type: FieldType]>>

/** A map is repeated messages of a key and a value. */
function mapOf(value: FieldType): { map: Fields } {
  return { map: { key: [1, 'string'], value: [2, value] } }
}

/** The fields of a message that has all members of a type. */
type FieldsOf<Type> = Readonly<Record<keyof Type, readonly [number: number, type: FieldType]>>

const STREAM_POSITION = {
  offset: [1, 'uint64'],
  epoch: [2, 'string']
} as const satisfies Fields

const SUBSCRIBE_REQUEST = {
  channel: [1, 'string'],
  token: [2, 'string'],
  recover: [3, 'bool'],
  epoch: [6, 'string'],
  offset: [7, 'uint64'],
  join_leave: [11, 'bool'],
  // A filter, which is not read.
  tf: [13, 'bytes'],
  flag: [14, 'uint64'],
  type: [15, 'int32']
} as const satisfies Fields

const CHANNEL = { message: { channel: [1, 'string'] } } as const

/** A command: its id, and the parameters of one method, by the name of the method. */
export const COMMAND = {
  id: [1, 'uint32'],
  connect: [4, { message: { token: [1, 'string'], subs: [3, mapOf({ message: SUBSCRIBE_REQUEST })] } }],
  subscribe: [5, { message: SUBSCRIBE_REQUEST }],
  unsubscribe: [6, CHANNEL],
  publish: [7, { message: { channel: [1, 'string'], data: [2, 'bytes'], type: [3, 'int32'] } }],
  presence: [8, CHANNEL],
  presence_stats: [9, CHANNEL],
  history: [
    10,
    {
      message: {
        channel: [1, 'string'],
        limit: [7, 'int32'],
        since: [8, { message: STREAM_POSITION }],
        reverse: [9, 'bool']
      }
    }
  ],
  ping: [11, { message: {} }],
  send: [12, { message: {} }],
  rpc: [13, { message: {} }],
  refresh: [14, { message: { token: [1, 'string'] } }],
  sub_refresh: [15, { message: { channel: [1, 'string'], token: [2, 'string'], type: [3, 'int32'] } }]
} as const satisfies Fields

/** What a client on an HTTP transport sends to `/emulation`. */
export const EMULATION_REQUEST = {
  node: [1, 'string'],
  session: [2, 'string'],
  data: [3, 'bytes']
} as const satisfies Fields

const CLIENT_INFO = {
  user: [1, 'string'],
  client: [2, 'string'],
  conn_info: [3, 'json']
} as const satisfies FieldsOf<ClientInfo>

/** A publication. `data` is bytes of any kind, which an application chooses. */
export const PUBLICATION = {
  data: [4, 'bytes'],
  info: [5, { message: CLIENT_INFO }],
  offset: [6, 'uint64'],
  tags: [7, mapOf('string')]
} as const satisfies Fields

const SUBSCRIBE_RESULT = {
  expires: [1, 'bool'],
  ttl: [2, 'uint32'],
  recoverable: [3, 'bool'],
  epoch: [6, 'string'],
  publications: [7, 'publications'],
  recovered: [8, 'bool'],
  offset: [9, 'uint64'],
  positioned: [10, 'bool'],
  data: [11, 'json'],
  was_recovering: [12, 'bool']
} as const satisfies FieldsOf<SubscribeResult>

const CONNECT_RESULT = {
  client: [1, 'string'],
  version: [2, 'string'],
  expires: [3, 'bool'],
  ttl: [4, 'uint32'],
  subs: [6, mapOf({ message: SUBSCRIBE_RESULT })],
  ping: [7, 'uint32'],
  pong: [8, 'bool'],
  session: [9, 'string'],
  node: [10, 'string']
} as const satisfies FieldsOf<ConnectResult>

const REFRESH_RESULT = { expires: [3, 'bool'], ttl: [4, 'uint32'] } as const satisfies FieldsOf<Lifetime>

const SUB_REFRESH_RESULT = { expires: [1, 'bool'], ttl: [2, 'uint32'] } as const satisfies FieldsOf<Lifetime>

const HISTORY_RESULT = {
  publications: [1, 'publications'],
  epoch: [2, 'string'],
  offset: [3, 'uint64']
} as const satisfies FieldsOf<HistoryResult>

const REASON = { code: [2, 'uint32'], reason: [3, 'string'] } as const satisfies FieldsOf<Disconnect>

const DISCONNECT = { code: [1, 'uint32'], reason: [2, 'string'] } as const satisfies FieldsOf<Disconnect>

const ERROR = {
  code: [1, 'uint32'],
  message: [2, 'string'],
  temporary: [3, 'bool']
} as const satisfies FieldsOf<ProtocolError>

const WITH_INFO = { message: { info: [1, { message: CLIENT_INFO }] } } as const

type NamesOf<Union> = Union extends unknown ? keyof Union : never

/** A push. For a publication it is `PUBLISHED`. */
const PUSH = {
  channel: [2, 'string'],
  join: [5, WITH_INFO],
  leave: [6, WITH_INFO],
  unsubscribe: [7, { message: REASON }],
  message: [8, { message: { data: [1, 'json'] } }],
  disconnect: [11, { message: DISCONNECT }]
} as const satisfies Record<NamesOf<Push>, Fields[string]>

/** A reply: to a command, with its id, or a push. */
export const REPLY = {
  id: [1, 'uint32'],
  error: [2, { message: ERROR }],
  push: [4, { message: PUSH }],
  connect: [5, { message: CONNECT_RESULT }],
  subscribe: [6, { message: SUBSCRIBE_RESULT }],
  unsubscribe: [7, { message: {} }],
  publish: [8, { message: {} }],
  presence: [9, { message: { presence: [1, mapOf({ message: CLIENT_INFO })] } }],
  presence_stats: [10, { message: { num_clients: [1, 'uint32'], num_users: [2, 'uint32'] } }],
  history: [11, { message: HISTORY_RESULT }],
  ping: [12, { message: {} }],
  refresh: [14, { message: REFRESH_RESULT }],
  sub_refresh: [15, { message: SUB_REFRESH_RESULT }]
} as const satisfies Record<keyof Results | 'id' | 'error' | 'push', Fields[string]>

/** A reply with the push of a publication: the same fields as in `REPLY` and `PUSH`. */
export const PUBLISHED = {
  push: [4, { message: { channel: [2, 'string'], pub: [4, { message: PUBLICATION }] } }]
} as const satisfies Fields
