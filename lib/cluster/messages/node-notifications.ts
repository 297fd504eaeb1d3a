import { NOTIFY_PAYLOAD_LIMIT, type Query } from '../../postgres/index.js'
import { BatchQueue } from '../../publishing/index.js'

const NOTIFY =
  'select pg_catalog.count(pg_catalog.pg_notify($1, payload)) from pg_catalog.unnest($2::pg_catalog.text[]) as payload'

export interface NodeNotificationsOptions {
  query: Query
  /** The database channel of the nodes: see nodeChannelOf. */
  channel: string
  /** Whether this node listens. */
  ready: () => boolean
}

/**
 * Makes a function that notifies payloads on the database channel of the nodes, in the order of the calls. It rejects if the
 * database does not take them at once.
 */
export function nodeNotifications({ query, channel, ready }: NodeNotificationsOptions) {
  const queue = new BatchQueue({
    send: async (groups) => {
      const payloads = groups.flatMap((group) => group.map(({ payload }) => payload))
      await query(NOTIFY, [channel, payloads])
      return groups.map(() => undefined)
    },
    limit: () => NOTIFY_PAYLOAD_LIMIT - 1,
    repeatable: () => false,
    ready,
    timeout: 0,
    onBatch() {}
  })
  return async (payloads: readonly string[]): Promise<void> => {
    // One by one, so that a large answer is split into several statements. The queue keeps their order.
    await Promise.all(
      payloads.map((payload) => queue.publish([{ channel: '', payload, databaseChannel: channel }]))
    )
  }
}
