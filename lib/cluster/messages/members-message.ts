import type { Line } from '../../presence/index.js'
import { encode, PART_BYTES } from './node-message.js'

/** What all messages of an answer have. */
export interface AnswerHead {
  to: string
  /** The number of the answer, if it has all members of the node. */
  answer?: number | undefined
}

/**
 * Encodes lines about presence channels for all nodes, as many as fit into each message.
 * @param after the number of changes that were sent before
 * @param id makes the next number of a line that is too large for one message
 */
export function encodeLines(from: string, after: number, lines: readonly Line[], id: () => number): string[] {
  let last = after
  return pack(lines, ({ text }) => text).flatMap((group) => {
    const { version } = group.at(-1)!
    const head = { after: last, version }
    last = version
    return encodeGroup(
      from,
      group.map(({ text }) => text),
      head,
      id
    )
  })
}

/** Encodes an answer: lines for one node. The last message of an answer with all members says so. */
export function encodeAnswerLines(
  from: string,
  lines: readonly string[],
  head: AnswerHead,
  id: () => number
): string[] {
  const messages = pack(lines, (text) => text).flatMap((group) => encodeGroup(from, group, head, id))
  if (head.answer !== undefined) {
    messages.push(encode({ from, type: 'members', ...head, done: true, text: '' }))
  }
  return messages
}

/** @param lines some that fit into one message together, or one that does not */
function encodeGroup(
  from: string,
  lines: readonly string[],
  head: { after?: number; version?: number } | AnswerHead,
  id: () => number
): string[] {
  const text = lines.join('\n')
  if (text.length <= PART_BYTES) return [encode({ from, type: 'members', ...head, text })]
  const number = id()
  const count = Math.ceil(text.length / PART_BYTES)
  return Array.from({ length: count }, (_, part) => {
    const piece = text.slice(part * PART_BYTES, (part + 1) * PART_BYTES)
    const last = part === count - 1
    return encode({ from, type: 'members-part', id: number, part, last, ...head, text: piece })
  })
}

/** Groups texts, which are ASCII, so that each group fits into one message. A larger text is a group of its own. */
function pack<Item>(items: readonly Item[], textOf: (item: Item) => string): Item[][] {
  const groups: Item[][] = []
  let length = Number.POSITIVE_INFINITY
  for (const item of items) {
    const more = textOf(item).length + 1
    if (length + more > PART_BYTES) {
      groups.push([])
      length = 0
    }
    groups.at(-1)!.push(item)
    length += more
  }
  return groups
}
