import { setImmediate as nextTurn } from 'node:timers/promises'
import {
  type BusDeliveries,
  type ChannelFilter,
  type ChannelSummary,
  type Hub,
  matchesFilter,
  type PlaceInChannel,
  type RatedChannel
} from '../channels/index.js'
import {
  CLOSES_A_TURN,
  type Connection,
  type ConnectionFilter,
  type ConnectionPlace,
  type ConnectionSummary,
  comparePlaces,
  matches,
  placeOf,
  readClosing,
  readClosingFilter,
  readFilter,
  summaryOf
} from '../clients/index.js'
import { errors } from '../errors.js'
import { isCount, isObject } from '../json-value.js'
import { mapInTurns, type Page, pageOf, readLimit } from '../page.js'
import type { ChannelSync } from '../presence/index.js'
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
  members: Pick<ChannelSync, 'answer'>
  monitor: () => NodeMonitor
  busDeliveries: Pick<BusDeliveries, 'of'> | undefined
}

/** Which page of the list of connections is wanted. */
export interface ConnectionPaging {
  limit?: number | undefined
  /** Only connections after this place. */
  after?: ConnectionPlace | undefined
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
  *ratedChannels(filter: ChannelFilter = {}): Generator<RatedChannel> {
    for (const one of this.#options.hub.rated()) if (matchesFilter(one.channel, filter)) yield one
  }

  /**
   * The connections of this node that match a filter, from the oldest to the newest.
   * @param page its `after` is a place in the list of all nodes
   */
  async connections(
    filter: ConnectionFilter,
    { limit, after }: ConnectionPaging = {}
  ): Promise<Page<ConnectionSummary>> {
    const { node, connections } = this.#options
    const { items, total, more } = await pageOf(connections, {
      matches: (connection) => matches(node, connection, filter),
      isAfter: ({ id: number }) => after === undefined || comparePlaces({ node, number }, after) > 0,
      compare: (one, other) => one.id - other.id,
      limit
    })
    return { items: await mapInTurns(items, (connection) => summaryOf(node, connection)), total, more }
  }

  /**
   * Closes connections. The first are closed at once, the others in the next turns of the event loop.
   * @returns how many are closed
   */
  disconnect(filter: ConnectionFilter, code: number, reason: string): number {
    const { node } = this.#options
    const connections = [...this.#options.connections].filter((connection) =>
      matches(node, connection, filter)
    )
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
        return [...this.ratedChannels(readChannelFilter(args))]
      // Older releases ask for whole lists.
      case 'connections':
        return this.connections(readFilter(args)).then(({ items }) => items)
      case 'connections page':
        return this.connections(readFilter(args), readConnectionPaging(args))
      // Older releases do not know all filters, and would close too many.
      case 'disconnect matching':
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
      case 'delivered':
        return this.#options.busDeliveries?.of(readPlaces(args)) ?? 0
      case 'members':
        return this.#options.members.answer(readChannels(args))
      case 'commands':
        return this.#options.sessions.answer(args)
      default:
        throw new errors.BadQuery('this server does not know the request: upgrade it')
    }
  }
}

/**
 * Checks what a request says of the page that it wants.
 * @throws BadQuery (400)
 */
export function readConnectionPaging(value: unknown): ConnectionPaging {
  const { limit, after } = isObject(value) ? value : {}
  const place = typeof after === 'string' ? placeOf(after) : undefined
  if (after !== undefined && place === undefined) {
    throw new errors.BadQuery('"after" must be the id of a connection, as in the header x-pgws-next')
  }
  return { limit: readLimit(limit), after: place }
}

/** @throws BadQuery (400) */
function readPlaces(value: unknown): PlaceInChannel[] {
  const { places } = isObject(value) ? value : {}
  if (!Array.isArray(places) || !places.every(isPlace)) {
    throw new errors.BadQuery('"places" must be a list of channels and positions')
  }
  return places.map(([channel, position]) => ({ channel, position }))
}

function isPlace(value: unknown): value is [channel: string, position: number] {
  return Array.isArray(value) && typeof value[0] === 'string' && isCount(value[1])
}

/** Older releases do not name a filter. @throws BadQuery (400) */
function readChannelFilter(value: unknown): ChannelFilter {
  const { search = '', channel } = isObject(value) ? value : {}
  if (typeof search !== 'string' || !(channel === undefined || typeof channel === 'string')) {
    throw new errors.BadQuery('"search" and "channel" must be texts')
  }
  return { search, channel }
}

function readChannels(value: unknown): string[] {
  const { channels } = isObject(value) ? value : {}
  if (!Array.isArray(channels) || !channels.every((channel) => typeof channel === 'string')) {
    throw new errors.BadQuery('"channels" must be an array of names')
  }
  return channels
}

async function closeAll(connections: Connection[], code: number, reason: string): Promise<void> {
  for (const [index, connection] of connections.entries()) {
    if (connection.open) connection.disconnect(code, reason)
    if (index % CLOSES_A_TURN === CLOSES_A_TURN - 1) await nextTurn()
  }
}
