import type { PresenceMember } from '../messages/index.js'
import { decodeLine } from './channel-line.js'

/**
 * Asks all nodes for their members of some channels.
 * @returns the lines of each node, parsed, and the nodes that have not answered
 * @throws NodesUnavailable (503)
 */
export type ReadMembers = (
  channels: readonly string[]
) => Promise<{ found: Map<string, unknown[]>; missing: string[] }>

/** What other nodes have answered. */
export interface Found {
  members: PresenceMember[]
  /** The nodes that have not answered. */
  missing: string[]
}

interface Reading {
  resolve: (found: Found) => void
  reject: (error: unknown) => void
}

/**
 * Reads the members that other nodes have in a channel, for one answer. Requests that come while a question is answered share
 * the next one, so that no answer is older than its request.
 */
export class MemberReads {
  readonly #ask: ReadMembers
  readonly #waiting = new Map<string, Reading[]>()
  #asking = false

  constructor(ask: ReadMembers) {
    this.#ask = ask
  }

  /** @throws NodesUnavailable (503) */
  read(channel: string): Promise<Found> {
    return new Promise((resolve, reject) => {
      const same = this.#waiting.get(channel) ?? []
      same.push({ resolve, reject })
      this.#waiting.set(channel, same)
      if (!this.#asking) this.#askAll()
    })
  }

  async #askAll(): Promise<void> {
    this.#asking = true
    while (this.#waiting.size > 0) {
      const waiting = new Map(this.#waiting)
      this.#waiting.clear()
      try {
        const { found, missing } = await this.#ask([...waiting.keys()])
        const members = membersIn(found)
        for (const [channel, readings] of waiting) {
          for (const { resolve } of readings) resolve({ members: members.get(channel) ?? [], missing })
        }
      } catch (error) {
        for (const readings of waiting.values()) for (const { reject } of readings) reject(error)
      }
    }
    this.#asking = false
  }
}

/** The members that nodes have answered with, by channel. */
function membersIn(found: Map<string, unknown[]>): Map<string, PresenceMember[]> {
  const members = new Map<string, PresenceMember[]>()
  for (const [node, lines] of found) {
    for (const value of lines) {
      const line = decodeLine(node, value)
      if (line?.after === undefined) continue
      const all = members.get(line.channel) ?? []
      for (const { event, member } of line.changes) if (event === 'join') all.push(member)
      members.set(line.channel, all)
    }
  }
  return members
}
