import { toAscii } from '../../json-text.js'
import { isCount, isObject } from '../../json-value.js'
import { NOTIFY_PAYLOAD_LIMIT } from '../../postgres/index.js'

/** The version of the messages between nodes. Messages of another version are ignored. */
const PROTOCOL = 1

/** The size of a part of a question or an answer, in bytes. The rest of the notification is for the header. */
export const PART_BYTES = NOTIFY_PAYLOAD_LIMIT - 300

/** What a node announces of itself. */
export interface NodeState {
  hostname: string
  pid: number
  version: string
  /** Milliseconds since the epoch. */
  startedAt: number
  /** Open websockets and event streams. */
  connections: number
  /** How long it may be silent before it is regarded as gone, in milliseconds. */
  timeout: number
  /** The number of presence changes that it has sent to older releases; undefined if it has no presence channels. */
  presence?: number | undefined
  /** The number of presence changes that it has sent by channel, and of its heartbeats; older releases have none. */
  members?: number | undefined
  beats?: number | undefined
  /**
   * The public part by which its sessions are recognized (lib/protocols/centrifugo/emulation/sealed-commands.ts); older
   * releases have none.
   */
  sessions?: string | undefined
  /** Whether it sends its events and figures, answers questions about pages, and knows all filters; older releases do not. */
  tells?: boolean | undefined
}

/** What lines about presence channels belong to: the changes of a node, or an answer to one. */
interface MembersHead {
  /** Undefined: everyone. */
  to?: string | undefined
  after?: number | undefined
  version?: number | undefined
  answer?: number | undefined
  done?: boolean | undefined
}

/** What precedes and follows a publication in its transaction, so that all nodes count their deliveries of it. */
export type PublicationMark = { from: string; type: 'begin' | 'end'; id: string }

/** A message between nodes. */
export type NodeMessage = { from: string } & (
  | {
      /** `hello` asks the others to announce themselves; `here` is their answer. */
      type: 'hello' | 'here' | 'heartbeat'
      node: NodeState
    }
  | { type: 'goodbye' }
  | {
      /** A node with a bus says so through the database: see OtherBuses. */
      type: 'elsewhere'
      bus: string
      hostname: string
      pid: number
    }
  | {
      type: 'question'
      id: string
      /** Undefined: everyone. */
      to?: string | undefined
      question: string
      args: unknown
    }
  | {
      /** A part of a question that is too large for one notification. */
      type: 'part'
      id: string
      to?: string | undefined
      question: string
      part: number
      last: boolean
      text: string
    }
  | { type: 'answer'; id: string; to: string; part: number; last: boolean; text: string }
  | { type: 'begin' | 'end'; id: string }
  | ({
      /** Lines about presence channels: see ChannelSync. */
      type: 'members'
      text: string
    } & MembersHead)
  | ({
      /** A part of a line that is too large for one message. */
      type: 'members-part'
      id: number
      part: number
      last: boolean
      text: string
    } & MembersHead)
  | {
      /** Asks a node for all of its members in presence channels. */
      type: 'members-question'
      to: string
    }
  | {
      /** The same for older releases: a part of a presence message (see NodeSync), and the question. */
      type: 'presence'
      id: number
      part: number
      last: boolean
      text: string
    }
  | { type: 'presence-question'; to: string }
  | {
      /** Asks all others to send their events, and their figures if wanted, for some seconds. */
      type: 'follow'
      stats: boolean
    }
  | {
      /** Events or figures of a node: see NodeFeed. */
      type: 'told'
      text: string
    }
)

/**
 * Encodes a message as the payload of a notification: a line of JSON, followed by the text of a part. It is ASCII, so it
 * does not depend on the database's encoding.
 */
export function encode(message: NodeMessage): string {
  if (!('text' in message)) return asciiOf({ pgws: PROTOCOL, ...message })
  const { text, ...head } = message
  return `${asciiOf({ pgws: PROTOCOL, ...head })}\n${text}`
}

/** Encodes an answer as one or more payloads. */
export function encodeAnswer(from: string, to: string, id: string, value: unknown): string[] {
  return cut(asciiOf(value)).map((part) => encode({ from, type: 'answer', id, to, ...part }))
}

/**
 * Encodes a presence message as one or more payloads.
 * @param id unique among the sender's presence messages
 */
export function encodePresence(from: string, id: number, value: unknown): string[] {
  return cut(asciiOf(value)).map((part) => encode({ from, type: 'presence', id, ...part }))
}

/** Encodes a question as one or more payloads. */
export function encodeQuestion(
  from: string,
  to: string | undefined,
  id: string,
  question: string,
  args: unknown
): string[] {
  const payload = encode({ from, type: 'question', id, to, question, args })
  if (payload.length < NOTIFY_PAYLOAD_LIMIT) return [payload]
  return cut(asciiOf(args)).map((part) => encode({ from, type: 'part', id, to, question, ...part }))
}

function cut(text: string): { part: number; last: boolean; text: string }[] {
  const count = Math.max(1, Math.ceil(text.length / PART_BYTES))
  return Array.from({ length: count }, (_, part) => ({
    part,
    last: part === count - 1,
    text: text.slice(part * PART_BYTES, (part + 1) * PART_BYTES)
  }))
}

/**
 * Decodes a payload. Any role that may connect to the database can send one, so its shape is checked.
 * @returns undefined for a payload that is not a valid message
 */
export function decode(payload: string): NodeMessage | undefined {
  const end = payload.indexOf('\n')
  let head: Record<string, unknown>
  try {
    head = JSON.parse(end === -1 ? payload : payload.slice(0, end))
  } catch {
    return undefined
  }
  if (typeof head !== 'object' || head === null || head.pgws !== PROTOCOL) return undefined
  const { pgws: _, ...message } = head
  const { from, type, id, to, node, question, part, last } = message
  if (!isNodeId(from)) return undefined
  switch (type) {
    case 'hello':
    case 'here':
    case 'heartbeat':
      if (!isNodeState(node)) return undefined
      break
    case 'goodbye':
      break
    case 'elsewhere':
      if (![message.bus, message.hostname].every(isShort) || !isCount(message.pid)) return undefined
      break
    case 'question':
      if (!isShort(id) || !isShort(question) || !(to === undefined || isNodeId(to))) return undefined
      break
    case 'part':
      if (!isShort(id) || !isShort(question) || !(to === undefined || isNodeId(to))) return undefined
      if (!isCount(part) || typeof last !== 'boolean') return undefined
      message.text = end === -1 ? '' : payload.slice(end + 1)
      break
    case 'answer':
      if (!isShort(id) || !isNodeId(to) || !isCount(part) || typeof last !== 'boolean') return undefined
      message.text = end === -1 ? '' : payload.slice(end + 1)
      break
    case 'begin':
    case 'end':
      if (!isShort(id)) return undefined
      break
    case 'presence':
      if (!isCount(id) || !isCount(part) || typeof last !== 'boolean') return undefined
      message.text = end === -1 ? '' : payload.slice(end + 1)
      break
    case 'members':
      if (!isMembersHead(message)) return undefined
      message.text = end === -1 ? '' : payload.slice(end + 1)
      break
    case 'members-part':
      if (!isMembersHead(message) || !isCount(id) || !isCount(part) || typeof last !== 'boolean')
        return undefined
      message.text = end === -1 ? '' : payload.slice(end + 1)
      break
    case 'members-question':
    case 'presence-question':
      if (!isNodeId(to)) return undefined
      break
    case 'follow':
      if (typeof message.stats !== 'boolean') return undefined
      break
    case 'told':
      message.text = end === -1 ? '' : payload.slice(end + 1)
      break
    default:
      return undefined
  }
  // The members of this type were checked above.
  return message as NodeMessage
}

/** Whether a value has the shape of a node's id. */
export function isNodeId(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{16}$/.test(value)
}

function isNodeState(value: unknown): value is NodeState {
  if (!isObject(value)) return false
  const { hostname, pid, version, startedAt, connections, timeout, sessions, tells } = value
  const { presence = 0, members = 0, beats = 0 } = value
  if (!isShort(hostname) || !isShort(version)) return false
  if (sessions !== undefined && !isShort(sessions)) return false
  if (tells !== undefined && typeof tells !== 'boolean') return false
  if (![pid, connections, timeout, presence, members, beats].every(isCount)) return false
  // The range of a Date.
  return isCount(startedAt) && startedAt <= 8.64e15
}

function isMembersHead({
  to,
  after = 0,
  version = 0,
  answer = 0,
  done = false
}: Record<string, unknown>): boolean {
  if (to !== undefined && !isNodeId(to)) return false
  return [after, version, answer].every(isCount) && typeof done === 'boolean'
}

function isShort(value: unknown): value is string {
  return typeof value === 'string' && value.length <= 255
}

function asciiOf(value: unknown): string {
  return toAscii(JSON.stringify(value))
}
