import type { Bus } from '../bus/index.js'
import { ChannelSync, NodeSync, type Presence } from '../presence/index.js'
import { encodeAnswerLines, encodeLines } from './messages/members-message.js'
import { Multipart } from './messages/multipart.js'
import { encode, encodePresence, type NodeMessage, type NodeState } from './messages/node-message.js'
import type { Answers } from './questions/answers.js'

export interface PresenceExchangeOptions {
  /** This node's id. */
  node: string
  presence: Presence
  bus: Pick<Bus, 'send' | 'announces'>
  /** Asks other nodes for their members of some channels. @throws NodesUnavailable (503) */
  read: (channels: readonly string[], nodes: readonly string[]) => Promise<Answers>
  /** The minimum time between two requests for all members of the same node, in milliseconds. */
  interval: number
}

type Announcing = NodeMessage & { type: 'hello' | 'here' | 'heartbeat' }

/**
 * Exchanges the members of presence channels with other nodes: by channel, and with nodes of older releases in the way that
 * they know (see NodeSync).
 */
export class PresenceExchange {
  readonly channels: ChannelSync
  readonly #options: PresenceExchangeOptions
  /** For nodes of older releases, which know all members of all nodes. */
  readonly #nodes: NodeSync
  /** The other nodes that exchange members by channel, and those of older releases that have presence channels. */
  readonly #newer = new Set<string>()
  readonly #older = new Set<string>()
  readonly #parts = new Multipart()
  #lastId = 0
  #beats = 0
  #closed = false
  readonly #nextId = () => ++this.#lastId

  constructor(options: PresenceExchangeOptions) {
    this.#options = options
    const { node, presence, bus, interval } = options
    this.channels = new ChannelSync({
      presence,
      byChannel: bus.announces,
      hasPeers: () => this.#newer.size > 0,
      send: async (after, lines) => {
        if (this.#closed) return
        if (!bus.announces) return bus.send('all', encodeLines(node, after, lines, this.#nextId))
        await Promise.all(
          lines.map((line) =>
            bus.send({ channel: line.channel }, encodeLines(node, after, [line], this.#nextId))
          )
        )
      },
      answer: async (to, lines, answer) => {
        if (this.#closed) return
        await bus.send({ node: to }, encodeAnswerLines(node, lines, { to, answer }, this.#nextId))
      },
      ask: (to) => this.#send(to, { from: node, type: 'members-question', to }),
      read: async (channels) => {
        const answers = await options.read(channels, [...this.#newer])
        const missing: string[] = []
        return { found: answers.byNode(isLines, (ids) => missing.push(...ids)), missing }
      },
      interval
    })
    this.#nodes = new NodeSync({
      presence,
      hasPeers: () => this.#older.size > 0,
      send: async (message) => {
        if (!this.#closed) await bus.send('all', encodePresence(node, this.#nextId(), message))
      },
      ask: (to) => this.#send(to, { from: node, type: 'presence-question', to }),
      interval
    })
  }

  /** What this node announces of it. */
  get state(): Pick<NodeState, 'presence' | 'members' | 'beats'> {
    return { presence: this.#nodes.version, members: this.channels.version, beats: this.#beats }
  }

  /** To be called before each heartbeat of this node. */
  beat(): void {
    this.#beats++
    this.channels.beat()
  }

  /** Takes what a known node announces. */
  heard({ from, type, node }: Announcing): void {
    const { presence, members, beats = 0 } = node
    if (members !== undefined) {
      this.#newer.add(from)
      this.channels.heard(from, { type, version: members, beats })
    } else if (presence !== undefined) {
      this.#older.add(from)
      this.#nodes.heard(from, presence)
    }
  }

  /** Takes a message of a known node. */
  receive(message: NodeMessage, { members }: NodeState): void {
    const { from } = message
    const { node } = this.#options
    switch (message.type) {
      case 'members':
        if (message.to === undefined || message.to === node) this.channels.receive(from, message)
        break
      case 'members-part': {
        const { to, id, part, last } = message
        if (to !== undefined && to !== node) break
        const text = this.#parts.addText(`${from} ${id}`, part, message.text, last)
        if (text !== undefined) this.channels.receive(from, { ...message, text })
        break
      }
      case 'members-question':
        if (message.to === node) this.channels.asked(from)
        break
      case 'presence':
        // A node that exchanges its members by channel sends them to older ones, too. Here they are known.
        if (members === undefined) this.#nodes.receive(from, message)
        break
      case 'presence-question':
        if (message.to === node) this.#nodes.asked()
        break
    }
  }

  /** Forgets a node that has left. */
  forget(node: string): void {
    this.#newer.delete(node)
    this.#older.delete(node)
    this.channels.forget(node)
    this.#nodes.forget(node)
  }

  /** After that, nothing is sent. */
  stop(): void {
    this.#closed = true
  }

  /** If that fails, the next heartbeat of the other node causes another question. */
  #send(to: string, message: NodeMessage): void {
    if (!this.#closed) this.#options.bus.send({ node: to }, [encode(message)]).catch(() => {})
  }
}

function isLines(value: unknown): value is unknown[] {
  return Array.isArray(value)
}
