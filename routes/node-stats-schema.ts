const text = { type: 'string' }
const time = { ...text, format: 'date-time' }
const timeOrNull = { anyOf: [time, { type: 'null' }] }
const count = { type: 'integer' }
const status = { type: 'object', properties: { status: text } }
const counts = (description: string) => ({ type: 'object', description, additionalProperties: count })

/** The figures of a node, as `GET /nodes` and the event `NodeStats` have them. */
export const nodeStatsSchema = {
  description:
    'Its figures; null for a node of an older release, or one that has not answered in time. Counters are totals since its start.',
  type: ['object', 'null'],
  properties: {
    node: text,
    hostname: text,
    version: text,
    time,
    startedAt: time,
    status: { ...text, enum: ['ok', 'degraded', 'unavailable'] },
    reasons: { type: 'array', items: text, description: 'Why the status is not `ok`, in sentences.' },
    listener: {
      type: 'object',
      properties: { status: text, upSince: timeOrNull, lastProvenAlive: timeOrNull, reconnects: count }
    },
    pool: status,
    schema: status,
    notificationQueue: { type: 'object', properties: { usage: { type: ['number', 'null'] } } },
    sequencer: { type: 'boolean', description: 'Whether it announces what is published from SQL.' },
    memoryBytes: count,
    heapBytes: count,
    eventLoopLagMs: {
      type: 'number',
      description: 'The 99th percentile since the figures before, in milliseconds.'
    },
    cpu: { type: 'number', description: 'Since the figures before: 1 is one core.' },
    connections: count,
    transports: counts('Connections by transport.'),
    channels: count,
    receivedMessages: count,
    receivedBytes: count,
    sentMessages: count,
    sentBytes: count,
    notifications: count,
    delivery: {
      description: 'From commit to delivery, since the figures before; null if nothing was delivered.',
      type: ['object', 'null'],
      properties: { p50Ms: { type: 'number' }, p99Ms: { type: 'number' } }
    },
    closes: counts('Closed connections, by reason.'),
    refusals: counts('Refused handshakes, by the code of the error.'),
    lostMessages: counts('Messages from the database that were given up, by reason.'),
    slowCatchUps: count,
    publishQueueBytes: { ...count, description: 'What waits for the database.' },
    bufferedBytes: { ...count, description: 'What waits for clients.' },
    pausedSockets: count,
    outboxBytes: {
      type: ['integer', 'null'],
      description: 'As the sequencer sees it; null: another node knows.'
    }
  }
}
