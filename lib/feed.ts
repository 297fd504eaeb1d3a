import type { FeedListener } from './cluster/index.js'
import { errors } from './errors.js'
import type { EventType, NodeStats, ServerEvent } from './events/index.js'
import type { Parts } from './parts.js'
import type { Sampler } from './sampler.js'

/** How many events and figures are held while the kept ones are written. */
const MAX_HELD = 1000

/** A cursor names at most this many nodes, because it is sent as a header. */
const MAX_NODES = 100

/** What is wanted of the events and figures of nodes. */
export interface FeedQuery {
  scope: 'local' | 'cluster'
  /** Whether figures are wanted. */
  stats: boolean
  /** Undefined: all types. */
  types: ReadonlySet<EventType> | undefined
  /** The number of the last event of each node that the client has: see readCursor. */
  after: ReadonlyMap<string, number>
}

/** Where a feed is written. */
export interface FeedWriter {
  /** @param cursor continues after the event */
  event(event: ServerEvent, cursor: string): void
  stats(stats: NodeStats): void
  /** Resolves when the client has taken most of what was written, or has left. */
  drained(): Promise<void>
  /** Is called when events had to be dropped, because the client has not read for long. */
  overrun(): void
}

/**
 * The kept events of this node, or of all, oldest first.
 * @param onMissing is called with the nodes that did not answer in time, if there are any
 * @throws NodesUnavailable (503) for the scope `cluster` while the database is unavailable
 */
export async function eventsOf(
  { events, cluster }: Pick<Parts, 'events' | 'cluster'>,
  { scope, types }: Pick<FeedQuery, 'scope' | 'types'>,
  onMissing?: (nodes: string[]) => void
): Promise<ServerEvent[]> {
  const own = events.list()
  const others = scope === 'cluster' ? await cluster.past(onMissing) : []
  return [...own, ...others.flatMap((past) => past.events)]
    .filter(({ type }) => types === undefined || types.has(type))
    .sort(byTime)
}

/**
 * Writes the kept events, and those that follow; with figures, the last ten minutes of them, and then those of each second.
 * @returns a function that ends this
 */
export function startFeed(
  { events, cluster }: Pick<Parts, 'events' | 'cluster'>,
  sampler: Sampler,
  { scope, stats, types, after }: FeedQuery,
  writer: FeedWriter
): () => void {
  const last = new Map(after)
  /** What comes before the kept events have been written; undefined once they have. */
  let held: (ServerEvent | NodeStats)[] | undefined = []
  let ended = false

  const writeEvent = (event: ServerEvent) => {
    const number = Number(event.id.slice(event.node.length + 1))
    if (number <= (last.get(event.node) ?? 0)) return
    // The nodes whose events were written last are at the end.
    last.delete(event.node)
    last.set(event.node, number)
    if (types === undefined || types.has(event.type)) writer.event(event, cursorOf(last))
  }
  const write = (one: ServerEvent | NodeStats) => {
    if ('type' in one) writeEvent(one)
    else writer.stats(one)
  }
  const receive = (one: ServerEvent | NodeStats) => {
    if (held === undefined) write(one)
    else if (held.length < MAX_HELD) held.push(one)
    else writer.overrun()
  }

  const ends = [events.follow(receive)]
  if (stats) ends.push(sampler.follow(receive))
  if (scope === 'cluster') {
    const listener: FeedListener = { event: receive, stats: stats ? receive : undefined }
    ends.push(cluster.follow(listener))
  }
  writeAll()
  return () => {
    ended = true
    for (const end of ends) end()
  }

  /** Never rejects. */
  async function writeAll(): Promise<void> {
    if (stats) await writeEach([...sampler.samples, sampler.latest()])
    await writeEach(events.list(last.get(events.node)))
    if (scope === 'cluster') {
      // While the database is unavailable, the others send nothing, and what they have kept is missing.
      const past = await cluster.past().catch(() => [])
      if (stats) await writeEach(past.flatMap(({ samples }) => samples))
      await writeEach(past.flatMap((one) => one.events).sort(byTime))
    }
    while (held !== undefined && held.length > 0 && !ended) await writeEach(held.splice(0))
    held = undefined
  }

  /** As fast as the client takes them, because those of many nodes are large. */
  async function writeEach(all: readonly (ServerEvent | NodeStats)[]): Promise<void> {
    for (const one of all) {
      if (ended) return
      write(one)
      await writer.drained()
    }
  }
}

function byTime(one: ServerEvent, other: ServerEvent): number {
  return one.time < other.time ? -1 : one.time > other.time ? 1 : 0
}

/** The last event of each node: `<node>-<number>`, separated by commas. */
function cursorOf(last: ReadonlyMap<string, number>): string {
  const all = [...last].slice(-MAX_NODES)
  return all.map(([node, number]) => `${node}-${number}`).join(',')
}

/**
 * Reads a cursor, as FeedWriter gets it. An empty text is the one before all events.
 * @throws BadQuery (400)
 */
export function readCursor(text: string): ReadonlyMap<string, number> {
  if (text === '') return new Map()
  return new Map(
    text.split(',').map((id) => {
      const [, node, number] = /^([0-9a-f]{16})-(\d{1,15})$/.exec(id) ?? []
      if (node === undefined) throw new errors.BadQuery('"Last-Event-ID" must be the id of an event')
      return [node, Number(number)]
    })
  )
}
