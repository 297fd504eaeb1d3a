import { errors } from '../../errors.js'
import { isObject } from '../../json-value.js'
import type { PgQuery } from '../../postgres/index.js'
import { attempt, channelOf } from '../packets/packet.js'
import type { Tables } from './tables.js'

/** How long a row's transaction may take after it has begun: its age counts from there, in milliseconds. */
const MARGIN = 2000

export interface NodesOptions {
  uid: string
  channelPrefix: string
  tables: Tables
  heartbeatInterval: number
  heartbeatTimeout: number
  cleanupInterval: number
  query: PgQuery
  /** Resolves when every message that has come so far is delivered. */
  drained: () => Promise<unknown>
  onError: (error: Error) => void
}

/** At most so many other nodes are known: whoever has SQL may say that it is one. */
const MAX_NODES = 1000

/** `at`: when it was sent, `read`: up to when its sender has read everything; Unix seconds of the database. */
interface Mark {
  uid: string
  at: number
  read: number | null
  hello?: boolean
  leaving?: boolean
}

/**
 * Removes the rows of packets that every node has read. Each node tells the others up to when it has: notifications come in
 * the order of commits, so once it gets its own mark back, and has delivered what came before, it has read all that was
 * committed before. Nodes that do not tell (@socket.io/postgres-adapter) count by age alone.
 */
export class AttachmentCleanup {
  /** The database channel of the marks: that of no namespace, which all begin with "/". */
  readonly channel: string
  readonly #options: NodesOptions
  readonly #others = new Map<string, { read: number | null; heard: number }>()
  #read: number | null = null
  #timer: NodeJS.Timeout | undefined
  #cleaner: NodeJS.Timeout | undefined
  #started = 0

  constructor(options: NodesOptions) {
    this.#options = options
    this.channel = channelOf(options.channelPrefix, '')
  }

  start(): void {
    const { heartbeatInterval, cleanupInterval, onError } = this.#options
    this.#started = performance.now()
    this.#timer = setInterval(() => this.tell(), heartbeatInterval).unref()
    this.#cleaner = setInterval(() => this.#clean().catch(onError), cleanupInterval).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
    clearInterval(this.#cleaner)
  }

  /** Sends our mark. Where that fails the next one will do. */
  async tell(more: { hello?: boolean; leaving?: boolean } = {}): Promise<void> {
    const { query, uid } = this.#options
    const mark = JSON.stringify({ uid, read: this.#read, ...more }).slice(1)
    await query(
      `select pg_catalog.pg_notify($1, pg_catalog.concat('{"at":', extract(epoch from pg_catalog.clock_timestamp()), ',', $2::pg_catalog.text))`,
      [this.channel, mark]
    ).catch(() => {})
  }

  receive(payload: string): void {
    const { uid, at, read, hello, leaving } = readMark(payload)
    if (uid === this.#options.uid) {
      this.#options.drained().then(() => {
        this.#read = Math.max(this.#read ?? 0, at)
      })
    } else if (leaving) this.#others.delete(uid)
    else if (this.#others.has(uid) || this.#others.size < MAX_NODES) {
      this.#others.set(uid, { read, heard: performance.now() })
      if (hello) this.tell()
    }
  }

  async #clean(): Promise<void> {
    const { query, tables, cleanupInterval, heartbeatInterval, heartbeatTimeout } = this.#options
    const now = performance.now()
    for (const [uid, { heard }] of this.#others) {
      if (now - heard > heartbeatTimeout) this.#others.delete(uid)
    }
    const marks = [this.#read, ...[...this.#others.values()].map(({ read }) => read)]
    const known = marks.filter((mark) => mark !== null)
    // Not before each had the time to tell.
    if (known.length < marks.length || now - this.#started < heartbeatInterval) return
    await query(
      `delete from ${tables.attachments}
       where created_at operator(pg_catalog.<) least(
         pg_catalog.now() operator(pg_catalog.-) pg_catalog.make_interval(secs => $1),
         pg_catalog.to_timestamp($2) operator(pg_catalog.-) pg_catalog.make_interval(secs => $3)
       )`,
      [cleanupInterval / 1000, Math.min(...known), MARGIN / 1000]
    )
  }
}

/**
 * Any role of the database may notify the channel, and a time that is none would end all cleaning.
 * @throws SocketIoPacketLost
 */
function readMark(payload: string): Mark {
  const mark = attempt((): unknown => JSON.parse(payload))
  const { uid, at, read, leaving } = isObject(mark) ? mark : {}
  const marks = Number.isFinite(at) && (read === null || Number.isFinite(read))
  if (typeof uid === 'string' && (marks || leaving === true)) return mark as Mark
  throw new errors.SocketIoPacketLost('its row is not the heartbeat of a node')
}
