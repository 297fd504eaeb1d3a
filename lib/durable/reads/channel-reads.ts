import { setImmediate as nextTurn } from 'node:timers/promises'
import { isAboutValues } from '../../errors.js'
import type { Query } from '../../postgres/index.js'
import type { MessageRow, StoredMessage, StoredMessages } from '../stored-message.js'
import { ChannelPage } from './channel-page.js'
import {
  type ChannelState,
  type LastOf,
  readChannels,
  readTails,
  type Tail,
  type Wanted
} from './channel-statements.js'
import { type Gathered, Gathering } from './gathering.js'
import type { Turns } from './turns.js'

/** The most messages of one reader in a page. */
const PAGE_ROWS = 500

/** How many rows one statement may look at, and so how many it looks at for each of its channels. */
const SCANNED_ROWS = 20_000

/** How many channels have clients that come at once, at most, in one statement. */
const FIRST_CHANNELS = 1000

/** How many readers are answered in one turn of the event loop. */
const ANSWERED_AT_ONCE = 50

/** The position after all others. */
const END = Number.MAX_SAFE_INTEGER

export interface States {
  /** The last position in the database. */
  latest: number
  channels: ChannelState[]
}

/** What a client that resumes needs first. */
export interface Resumed extends States {
  /** The first page, of the same moment; undefined if it must be read with `read`. */
  page: ChannelPage | undefined
}

interface Requester<Answer> {
  resolve: (answer: Answer) => void
  reject: (error: unknown) => void
}

interface Reader extends Requester<Resumed> {
  channels: readonly string[]
  starts: readonly number[]
  after: number
}

interface LastReader extends Requester<Tail> {
  wanted: LastOf
}

type First = Reader | LastReader

/**
 * Reads the stored messages of channels for clients. Clients that ask at nearly the same time share statements, those of
 * different channels, too, because thousands come back at once when a server or a network fails. Statements take turns, and
 * each is limited, so that many readers do not exhaust the memory of this process or the pool.
 */
export class ChannelReads {
  readonly #query: Query
  readonly #messages: StoredMessages
  /** What clients ask for when they come. */
  readonly #first: Gathering<First>
  /** The pages of those that have more to read. They have their own statements, so that those that come need not wait. */
  readonly #further: Gathering<Reader>
  readonly #maxTailBytes: number

  /**
   * @param turns limits how many statements read messages at the same time
   * @param maxTailBytes the most bytes of the last messages that a client gets
   */
  constructor(query: Query, messages: StoredMessages, turns: Turns, maxTailBytes: number) {
    this.#query = query
    this.#messages = messages
    this.#maxTailBytes = maxTailBytes
    this.#first = new Gathering({
      owner: 'first',
      turns,
      run: (gathered) => this.#serveFirst(gathered),
      fullSize: FIRST_CHANNELS,
      window: [0, 500]
    })
    this.#further = new Gathering({
      owner: 'further',
      turns,
      run: (gathered) => this.#serve(gathered, false),
      fullSize: 200,
      // Readers of one channel that take its pages at about the same speed share them.
      window: [25, 25]
    })
  }

  /** The state of some channels, and the last position in the database. */
  state(channels: readonly string[]): Promise<States> {
    return ask(this.#first, channels, END, [])
  }

  /**
   * The state of some channels, and, of the same moment, their first messages after a position.
   * @param after undefined: no messages
   * @param starts for each channel another such position, if its messages begin later
   */
  async resume(
    channels: readonly string[],
    after: number | undefined,
    starts: readonly number[] = []
  ): Promise<Resumed> {
    if (after !== undefined) return ask(this.#first, channels, after, starts)
    return { ...(await this.state(channels)), page: undefined }
  }

  /**
   * Messages of some channels, in order.
   * @param after the position before the first
   * @param starts for each channel another such position, if its messages begin later
   */
  async read(
    channels: readonly string[],
    after: number,
    starts: readonly number[] = []
  ): Promise<ChannelPage> {
    for (;;) {
      const { page } = await ask(this.#further, channels, after, starts)
      if (page !== undefined) return page
    }
  }

  /**
   * Where the last messages of some channels begin. If they have too many bytes, older ones are left out, though never the
   * last one.
   * @param count the most of each channel
   */
  tail(channels: readonly string[], count: number): Promise<Tail> {
    return new Promise((resolve, reject) => {
      const wanted = { channels, count }
      const size = Math.ceil((channels.length * count * FIRST_CHANNELS) / SCANNED_ROWS)
      this.#first.ask(JSON.stringify(wanted), size, { wanted, resolve, reject })
    })
  }

  /** Never rejects. */
  async #serveFirst(gathered: Gathered<First>[]): Promise<void> {
    const last = gathered.filter(isOfLast)
    const others = gathered.filter(isOfReaders)
    if (others.length > 0) await this.#serve(others, true)
    if (last.length > 0) await this.#serveTails(last)
  }

  /** Never rejects. */
  #serve(gathered: Gathered<Reader>[], withLatest: boolean): Promise<void> {
    return settle(gathered, async (some) => {
      const wanted = some.map(({ requests }) => wantedBy(requests))
      const { latest, stored, found } = await readChannels(this.#query, wanted, {
        limit: limitOf(wanted),
        withLatest
      })
      // A message of several readers is encoded once.
      const messages = new Map<number, StoredMessage>()
      const messageOf = (row: MessageRow): StoredMessage => {
        let message = messages.get(row.position)
        if (message === undefined) {
          message = this.#messages.of(row)
          messages.set(row.position, message)
        }
        return message
      }
      for (const [i, { requests }] of some.entries()) {
        const { rows, more, channels } = found[i]!
        const trimmed = Math.max(...channels.map((channel) => channel.trimmed))
        const page = new ChannelPage(rows.map(messageOf), more, trimmed, Math.max(stored, trimmed))
        answer(requests, { latest, channels }, page)
        if ((i + 1) % ANSWERED_AT_ONCE === 0) await nextTurn()
      }
    })
  }

  /** Never rejects. */
  #serveTails(gathered: Gathered<LastReader>[]): Promise<void> {
    return settle(gathered, async (some) => {
      const wanted = some.map(({ requests }) => requests[0]!.wanted)
      const tails = await readTails(this.#query, wanted, this.#maxTailBytes)
      for (const [i, { requests }] of some.entries()) {
        for (const { resolve } of requests) resolve(tails[i]!)
      }
    })
  }
}

function ask(
  gathering: Pick<Gathering<Reader>, 'ask'>,
  channels: readonly string[],
  after: number,
  starts: readonly number[]
): Promise<Resumed> {
  return new Promise((resolve, reject) => {
    const key = JSON.stringify([channels, starts])
    gathering.ask(key, channels.length, { channels, starts, after, resolve, reject })
  })
}

/** What readers of the same channels want together. */
function wantedBy(readers: readonly Reader[]): Wanted {
  const { channels, starts } = readers[0]!
  const after = Math.min(...readers.map((reader) => reader.after))
  return { channels, starts: channels.map((_, i) => Math.max(after, starts[i] ?? 0)) }
}

/** The most messages of one reader in a statement. */
function limitOf(wanted: readonly Wanted[]): number {
  if (wanted.length === 1) return PAGE_ROWS
  const channels = wanted.reduce((sum, { channels }) => sum + channels.length, 0)
  return Math.min(PAGE_ROWS, Math.ceil(SCANNED_ROWS / channels))
}

/**
 * Answers readers of the same channels.
 * @param page the messages after the first of their positions. Readers whose messages come after its end get none
 */
function answer(readers: readonly Reader[], states: States, page: ChannelPage): void {
  const last = page.messages.at(-1)?.position ?? 0
  const pages = new Map<number, ChannelPage>()
  for (const { after, resolve } of readers) {
    if (page.more && after >= last) {
      resolve({ ...states, page: undefined })
      continue
    }
    let own = pages.get(after)
    if (own === undefined) {
      own = page.after(after)
      pages.set(after, own)
    }
    resolve({ ...states, page: own })
  }
}

/**
 * Runs a statement for requests. If the database refuses it because of what some of them ask for, the others are answered:
 * each half is tried by itself. Never rejects.
 */
async function settle<Request extends { reject: (error: unknown) => void }>(
  gathered: Gathered<Request>[],
  run: (some: Gathered<Request>[]) => Promise<void>
): Promise<void> {
  try {
    await run(gathered)
  } catch (error) {
    if (gathered.length > 1 && isAboutValues(error)) {
      const middle = gathered.length >> 1
      await settle(gathered.slice(0, middle), run)
      await settle(gathered.slice(middle), run)
      return
    }
    for (const { requests } of gathered) {
      for (const { reject } of requests) reject(error)
    }
  }
}

/** Requests with the same key are of one kind. */
function isOfLast(one: Gathered<First>): one is Gathered<LastReader> {
  return 'wanted' in one.requests[0]!
}

function isOfReaders(one: Gathered<First>): one is Gathered<Reader> {
  return !isOfLast(one)
}
