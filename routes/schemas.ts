import type { FastifySchema } from 'fastify'

/** Schemas that several routes share, for the OpenAPI document and for serialization. */

/** The body of an error. */
export const errorSchema = (description: string) => ({
  description,
  type: 'object',
  properties: {
    statusCode: { type: 'integer' },
    code: { type: 'string' },
    error: { type: 'string' },
    message: { type: 'string' }
  }
})

/** The body of an error that an SQL function raised. */
export const rejectionSchema = (description: string) => {
  const schema = errorSchema(description)
  return { ...schema, properties: { ...schema.properties, sqlstate: { type: 'string' } } }
}

/** The bearer token of the control plane. */
export const bearer = [{ bearer: [] }]

const time = { anyOf: [{ type: 'string', format: 'date-time' }, { type: 'null' }] }
const upOrDown = { type: 'string', enum: ['up', 'down'] }

export const healthSchema = (description: string) => ({
  description,
  type: 'object',
  properties: {
    status: { type: 'string', enum: ['ok', 'degraded', 'unavailable'] },
    reasons: {
      type: 'array',
      items: { type: 'string' },
      description: 'Why the status is not `ok`, in sentences.'
    },
    listener: {
      type: 'object',
      properties: { status: upOrDown, upSince: time, lastProvenAlive: time, reconnects: { type: 'integer' } }
    },
    pool: {
      description:
        '`forbidden`: it answers, but its role may not use the schema `pgws`; the log says what to grant. `read-only`: the database refuses writes.',
      type: 'object',
      properties: { status: { type: 'string', enum: ['up', 'down', 'forbidden', 'read-only'] } }
    },
    schema: {
      type: 'object',
      description: 'Whether this server and the schema `pgws` are compatible.',
      properties: { status: { type: 'string', enum: ['ok', 'missing', 'too old', 'too new'] } }
    },
    notificationQueue: {
      type: 'object',
      properties: { usage: { anyOf: [{ type: 'number', minimum: 0, maximum: 1 }, { type: 'null' }] } }
    },
    delivery: {
      description: 'Why messages were lost on this server within the last minute.',
      type: 'object',
      properties: {
        status: { type: 'string', enum: ['up', 'degraded'] },
        failures: { type: 'array', items: { type: 'string' }, examples: [['unreadable']] }
      }
    },
    outbox: {
      description:
        'What is published from SQL, until the sequencer, one of the nodes, has announced it. `held`: it is large and cannot be emptied while a transaction that has published, or a dump, stays open. `failing`: this node should announce it, and cannot; the log says why.',
      type: 'object',
      properties: {
        status: { type: 'string', enum: ['ok', 'held', 'failing'] },
        sequencer: { type: 'boolean', description: 'Whether this node is the sequencer.' },
        bytes: {
          anyOf: [{ type: 'integer' }, { type: 'null' }],
          description: 'Its size; null: another node knows.'
        },
        blocked: {
          type: 'integer',
          description: 'How many of its tables could not be emptied the last time.'
        }
      }
    },
    bus: {
      description:
        'What carries messages between nodes. `away`: messages are read from the database once a second. `bypassed`: the sequencer is a server without PGWS_BUS, so the database notifies every node.',
      type: 'object',
      properties: {
        name: { type: 'string', enum: ['notify', 'nats'] },
        status: { type: 'string', enum: ['up', 'away', 'bypassed'] },
        others: {
          description: 'The ids of the nodes that have another bus than this one, or none.',
          type: 'array',
          items: { type: 'string' }
        }
      }
    },
    connections: { type: 'integer', description: 'Open connections of this server.' },
    maxMessageBytes: { type: 'integer', description: 'The largest message that a client may send.' }
  }
})

/** Hides a route from the API document. */
export const HIDDEN: FastifySchema = { hide: true }
