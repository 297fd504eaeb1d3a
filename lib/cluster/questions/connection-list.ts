import {
  type Closing,
  type ConnectionFilter,
  type ConnectionSummary,
  comparePlaces,
  placeOf,
  readClosing,
  readClosingFilter,
  readFilter
} from '../../clients/index.js'
import { isCount } from '../../json-value.js'
import type { Page, Paging } from '../../page.js'
import type { NodeChannel } from '../node-channel.js'
import { type ConnectionPaging, type OwnNode, readConnectionPaging } from '../own-node.js'
import { isConnections, isConnectionsPage } from './answer-checks.js'
import type { Scope } from './scope.js'

/** The result of closing connections. */
export interface Disconnected {
  /** How many connections were closed, or would be. */
  closed: number
  /** The ids of the nodes that did not answer in time. They may have closed connections, too. */
  missing: string[]
}

/** Lists and closes the connections of all nodes. */
export class ConnectionList {
  readonly #channel: NodeChannel
  readonly #own: OwnNode

  constructor(channel: NodeChannel, own: OwnNode) {
    this.#channel = channel
    this.#own = own
  }

  /**
   * The connections that match a filter, by node, and from the oldest to the newest.
   * @throws BadQuery (400), NodesUnavailable (503)
   */
  async list(
    filter: ConnectionFilter,
    { scope, onMissing, limit, after, onPage }: Scope & Paging
  ): Promise<ConnectionSummary[]> {
    const wanted = readFilter(filter)
    const paging = readConnectionPaging({ limit, after })
    const missing: string[] = []
    const others = scope === 'cluster' ? this.#askAll(wanted, paging, missing) : []
    const pages = [await this.#own.connections(wanted, paging), ...(await others)]
    if (missing.length > 0) onMissing?.(missing)
    const { items, total, more } = merged(pages, paging.limit)
    onPage?.({ total, next: more ? items.at(-1)!.id : undefined })
    return items
  }

  /**
   * Closes the connections that match a filter, on all nodes.
   * @param dryRun only counts them
   * @throws BadQuery (400), NodesUnavailable (503)
   */
  async disconnect(
    filter: ConnectionFilter,
    closing: Partial<Closing>,
    dryRun = false
  ): Promise<Disconnected> {
    const wanted = readClosingFilter(filter)
    const { code, reason } = readClosing(closing)
    if (dryRun) return this.#count(wanted)
    const node = wanted.id === undefined ? undefined : placeOf(wanted.id)?.node
    if (node === this.#channel.id) return { closed: this.#own.disconnect(wanted, code, reason), missing: [] }
    this.#channel.requireReady()
    if (wanted.id !== undefined && (node === undefined || !this.#channel.has(node))) {
      return { closed: 0, missing: [] }
    }
    const missing: string[] = []
    const args = { ...wanted, code, reason }
    const known = wanted.address === undefined && wanted.transport === undefined
    if (!known) missing.push(...this.#outdated())
    const answering = known
      ? this.#channel.ask('disconnect', args, node)
      : this.#channel.ask('disconnect matching', args, node ?? this.#current())
    // This node does not wait for the others.
    const own = this.#own.disconnect(wanted, code, reason)
    const answers = await answering
    const counts = answers.read(isCount, (nodes) => missing.push(...nodes))
    return { closed: counts.reduce((sum, count) => sum + count, own), missing }
  }

  async #count(wanted: ConnectionFilter): Promise<Disconnected> {
    const missing: string[] = []
    let closed = 0
    await this.list(wanted, {
      scope: 'cluster',
      limit: 1,
      onMissing: (nodes) => missing.push(...nodes),
      onPage: ({ total }) => {
        closed = total
      }
    })
    return { closed, missing }
  }

  /** Asks the other nodes for their part of a page. @param missing gets the nodes that have not answered */
  async #askAll(
    wanted: ConnectionFilter,
    paging: ConnectionPaging,
    missing: string[]
  ): Promise<Page<ConnectionSummary>[]> {
    const { limit, after } = paging
    const onMissing = (nodes: string[]) => missing.push(...nodes)
    const outdated = this.#outdated()
    // They do not say what the transports are.
    if (wanted.transport !== undefined) missing.push(...outdated)
    if (limit === undefined && after === undefined) {
      const answers = await this.#channel.ask('connections', wanted)
      return answers.read(isConnections, onMissing).map((items) => partOf(items, wanted, paging))
    }
    const { id, subject, channel } = wanted
    const pages = this.#channel
      .ask(
        'connections page',
        { ...wanted, limit, after: after && `${after.node}-${after.number}` },
        this.#current()
      )
      .then((answers) => answers.read(isConnectionsPage(limit), onMissing))
    const lists = outdated.map(async (node) => {
      const answers = await this.#channel.ask('connections', { id, subject, channel }, node)
      return answers.read(isConnections, onMissing).map((items) => partOf(items, wanted, paging))
    })
    return (await Promise.all([pages, ...lists])).flat()
  }

  /** The other nodes that know pages and all filters. */
  #current(): string[] {
    return this.#channel.peers.filter(({ tells }) => tells).map(({ id }) => id)
  }

  /** Nodes of an older release. */
  #outdated(): string[] {
    return this.#channel.peers.filter(({ tells }) => !tells).map(({ id }) => id)
  }
}

/** A page of one or several lists, each of which begins at the same place and has as many items as the page. */
function merged(
  pages: readonly Page<ConnectionSummary>[],
  limit = Number.POSITIVE_INFINITY
): Page<ConnectionSummary> {
  const items = pages.flatMap(({ items }) => items)
  if (pages.length > 1) items.sort((one, other) => comparePlaces(placeOf(one.id)!, placeOf(other.id)!))
  return {
    items: items.slice(0, limit),
    total: pages.reduce((sum, { total }) => sum + total, 0),
    more: items.length > limit || pages.some(({ more }) => more)
  }
}

/** The page of a whole list. Nodes of an older release ignore the filters that they do not know. */
function partOf(
  all: readonly ConnectionSummary[],
  { address, transport }: ConnectionFilter,
  { limit, after }: ConnectionPaging
): Page<ConnectionSummary> {
  const items = all.filter(
    (item) =>
      (address === undefined || item.address === address) &&
      (transport === undefined || item.transport === transport)
  )
  const rest = items
    .filter(({ id }) => after === undefined || comparePlaces(placeOf(id)!, after) > 0)
    .sort((one, other) => comparePlaces(placeOf(one.id)!, placeOf(other.id)!))
  return {
    items: rest.slice(0, limit),
    total: items.length,
    more: limit !== undefined && rest.length > limit
  }
}
