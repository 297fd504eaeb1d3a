import { setImmediate as nextTurn } from 'node:timers/promises'
import type { ChannelSummary, Hub, RatedChannel } from '../channels/index.js'
import {
  CLOSES_A_TURN,
  type Connection,
  type ConnectionFilter,
  type ConnectionSummary,
  readClosing,
  readClosingFilter,
  readFilter,
  select,
  summaryOf
} from '../clients/index.js'
import { errors } from '../errors.js'
import type { NodeMonitor } from './node-feed.js'

/** The sessions of this node whose commands may arrive at any node. */
export interface NodeSessions {
  /** The public part by which other nodes recognize the sessions of this node. */
  readonly sessions: string
  /** Takes commands that another node forwards to a session of this node. Returns whether the session exists. */
  answer(args: unknown): boolean
}

export interface OwnNodeOptions {
  /** This node's id. */
  node: string
  connections: Iterable<Connection>
  hub: Pick<Hub, 'summary' | 'rated'>
  sessions: NodeSessions
  monitor: () => NodeMonitor
}

/** Lists and closes the clients of this node, for itself and for other nodes. */
export class OwnNode {
  readonly #options: OwnNodeOptions

  constructor(options: OwnNodeOptions) {
    this.#options = options
  }

  /** The channels that clients of this node are connected to. */
  channels(): ChannelSummary[] {
    return this.#options.hub.summary()
  }

  /** The same with rates. */
  ratedChannels(): Iterable<RatedChannel> {
    return this.#options.hub.rated()
  }

  list(filter: ConnectionFilter): ConnectionSummary[] {
    const { node: id } = this.#options
    return [...select(this.#options.connections, id, filter)].map((connection) => summaryOf(id, connection))
  }

  /**
   * Closes connections. The first are closed at once, the others in the next turns of the event loop.
   * @returns how many are closed
   */
  disconnect(filter: ConnectionFilter, code: number, reason: string): number {
    const connections = [...select(this.#options.connections, this.#options.node, filter)]
    closeAll(connections, code, reason)
    return connections.length
  }

  /**
   * Answers another node's question.
   * @throws if it is not a question
   */
  answer(question: string, args: unknown): unknown {
    switch (question) {
      case 'channels':
        return [...this.ratedChannels()]
      case 'connections':
        return this.list(readFilter(args))
      case 'disconnect': {
        const filter = readClosingFilter(args)
        const { code, reason } = readClosing(args)
        return this.disconnect(filter, code, reason)
      }
      case 'stats':
        return this.#options.monitor().latest()
      case 'past': {
        const monitor = this.#options.monitor()
        return { events: monitor.events(), samples: monitor.samples() }
      }
      case 'commands':
        return this.#options.sessions.answer(args)
      default:
        throw new errors.BadQuery('this server does not know the request: upgrade it')
    }
  }
}

async function closeAll(connections: Connection[], code: number, reason: string): Promise<void> {
  for (const [index, connection] of connections.entries()) {
    if (connection.open) connection.disconnect(code, reason)
    if (index % CLOSES_A_TURN === CLOSES_A_TURN - 1) await nextTurn()
  }
}
