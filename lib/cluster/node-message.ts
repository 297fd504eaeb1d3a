import { toAscii } from '../json-text.js'
import { isCount, isObject } from '../json-value.js'
import { NOTIFY_PAYLOAD_LIMIT } from '../postgres/index.js'
import type { PresencePart } from '../presence/index.js'

/** What nodes say to each other changes with this number; they pass over what has another one. */
const PROTOCOL = 1

/** How much of a question, or an answer, goes into one notification, in bytes; the rest is for what stands before it. */
const PART_BYTES = NOTIFY_PAYLOAD_LIMIT - 300

/** What a node tells of itself. */
export interface NodeState {
  hostname: string
  pid: number
  version: string
  /** Milliseconds since the epoch. */
  startedAt: number
  /** Open sockets and event streams. */
  connections: number
  /** After how much silence it is gone, in milliseconds. */
  timeout: number
  /** How many changes of its members in presence channels it has told; undefined where it has no such channels. */
  presence?: number | undefined
  /** What shows that a session is one of its own (lib/protocols/centrifugo/emulation/sealed-commands.ts); older servers have none. */
  sessions?: string | undefined
}

/** What nodes say to each other. */
export type NodeMessage = { from: string } & (
  | {
      /** `hello`: who else is there? `here` is the answer to it. */
      type: 'hello' | 'here' | 'heartbeat'
      node: NodeState
    }
  | { type: 'goodbye' }
  | {
      type: 'question'
      id: string
      /** Undefined: everyone. */
      to?: string | undefined
      question: string
      args: unknown
    }
  | {
      /** Of a question that takes several notifications. */
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
  | ({ type: 'presence' } & PresencePart)
  | {
      /** To tell all of its members. */
      type: 'presence-question'
      to: string
    }
)

/**
 * The payload of a notification: a line of JSON, and behind it the text of a part. All of it is ASCII,
 * whatever the database's encoding.
 */
export function encode(message: NodeMessage): string {
  if (message.type !== 'answer' && message.type !== 'part' && message.type !== 'presence') {
    return asciiOf({ pgws: PROTOCOL, ...message })
  }
  const { text, ...head } = message
  return `${asciiOf({ pgws: PROTOCOL, ...head })}\n${text}`
}

/** The payloads of an answer, cut into as many as it takes. */
export function encodeAnswer(from: string, to: string, id: string, value: unknown): string[] {
  return cut(asciiOf(value)).map((part) => encode({ from, type: 'answer', id, to, ...part }))
}

/**
 * The payloads of what a node tells of its members, cut into as many as it takes.
 * @param id another one for each message
 */
export function encodePresence(from: string, id: number, value: unknown): string[] {
  return cut(asciiOf(value)).map((part) => encode({ from, type: 'presence', id, ...part }))
}

/** The payloads of a question: one, or where it is too large for that, as many as it takes. */
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

/** Reads a payload; undefined for what is none of ours. Anyone who has SQL may notify the channel. */
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
    case 'presence-question':
      if (!isNodeId(to)) return undefined
      break
    default:
      return undefined
  }
  return message as NodeMessage
}

/** Whether a text has the shape of a node's id. */
export function isNodeId(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{16}$/.test(value)
}

function isNodeState(value: unknown): value is NodeState {
  if (!isObject(value)) return false
  const { hostname, pid, version, startedAt, connections, timeout, presence, sessions } = value
  if (!isShort(hostname) || !isShort(version)) return false
  if (sessions !== undefined && !isShort(sessions)) return false
  if (![pid, connections, timeout, presence ?? 0].every(isCount)) return false
  // What a Date can hold.
  return isCount(startedAt) && startedAt <= 8.64e15
}

function isShort(value: unknown): value is string {
  return typeof value === 'string' && value.length <= 255
}

function asciiOf(value: unknown): string {
  return toAscii(JSON.stringify(value))
}
