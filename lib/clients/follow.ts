import { setTimeout as sleep } from 'node:timers/promises'
import type { Format, Frame } from '../channels/index.js'
import type { ChannelPage, ChannelReads, RetentionRules } from '../durable/index.js'
import { isPermanent } from '../errors.js'
import type { Connection } from './connections/connection.js'

/** The pause after a failure of the database, in milliseconds. */
const RETRY_INTERVAL = 1000

/** Where stored messages are read. */
export interface FollowOptions {
  reads: Pick<ChannelReads, 'read'>
  durable: Pick<RetentionRules, 'epoch'>
}

/** A connection, or one of its subscriptions, that continues with stored messages. It holds new ones meanwhile. */
export interface Follower {
  readonly format: Format
  /** False once nothing can be sent to it. */
  readonly open: boolean
  /** Drops durable messages from now on. */
  skip(): void
  /** Holds durable messages from now on. */
  keep(): void
  /** Sends stored messages. @param joined the same bytes in one buffer */
  replay(frames: readonly Frame[], joined: Buffer): void
  /**
   * Sends what was held. Later messages are sent at once.
   * @param position the position of the last message that was replayed
   * @returns false if some were dropped, so that the replay must continue
   */
  release(position: number): boolean
}

/**
 * Sends stored messages, as fast as the client takes them, until nothing is left that it has not been sent. New messages
 * are held only while the last page is read, so that a client that takes nothing costs nothing but what its transport has.
 * @param connection that of the follower
 * @param start the position after which the client has been sent nothing
 * @returns false if messages that the follower needs have been deleted, or if `start` is not a position of this database
 * @throws an error that retrying does not help
 */
export async function follow(
  follower: Follower,
  connection: Connection,
  channels: readonly string[],
  start: number,
  { reads, durable }: FollowOptions
): Promise<boolean> {
  const { epoch } = durable
  let after = start
  /** @returns what `follow` does; undefined if there is more to send */
  const sendPage = async (): Promise<boolean | undefined> => {
    await connection.ready()
    if (!follower.open) return true
    follower.keep()
    const page = await read(reads, channels, after)
    if (!follower.open) return true
    if (page === undefined) return undefined
    if (durable.epoch !== epoch || page.trimmed > after || page.latest < after) return false
    // Other clients have used the free space in the meantime.
    if (!connection.mayReplay) return undefined
    const { frames, joined } = page.encode(follower.format)
    follower.replay(frames, joined)
    after = page.messages.at(-1)?.position ?? after
    if (!follower.open || (!page.more && follower.release(after))) return true
    return undefined
  }
  for (;;) {
    follower.skip()
    const done = await inTurn(connection, sendPage)
    if (done !== undefined) return done
  }
}

/** The last page that is being sent to a connection. */
const sending = new WeakMap<Connection, Promise<unknown>>()

/** Sends one page at a time to a connection, however many of its subscriptions follow. */
function inTurn<Result>(connection: Connection, send: () => Promise<Result>): Promise<Result> {
  const sent = (sending.get(connection) ?? Promise.resolve()).then(send)
  sending.set(
    connection,
    sent.catch(() => {})
  )
  return sent
}

/** @returns undefined after a failure that may pass, and a pause */
async function read(
  reads: FollowOptions['reads'],
  channels: readonly string[],
  after: number
): Promise<ChannelPage | undefined> {
  try {
    return await reads.read(channels, after)
  } catch (error) {
    if (isPermanent(error)) throw error
    await sleep(RETRY_INTERVAL, undefined, { ref: false })
    return undefined
  }
}
