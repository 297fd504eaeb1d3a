import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Scope } from '../lib/cluster/index.js'
import { errors } from '../lib/errors.js'
import { isObject } from '../lib/json-value.js'

/** The header with the nodes that did not answer in time. */
const MISSING = 'x-pgws-missing-nodes'

/** What a description says of the header. */
export const MISSING_HEADER = `The header ${MISSING} names those that did not answer in time.`

export const scopeSchema = {
  type: 'string',
  enum: ['local', 'cluster'],
  default: 'local',
  description: `This node, or all nodes. ${MISSING_HEADER}`
}

/**
 * Reads the scope of a request, and makes the function that adds the header for missing nodes to its answer.
 * @throws BadQuery (400)
 */
export function answeringScope(request: FastifyRequest, reply: FastifyReply): Required<Scope> {
  const { scope = 'local' } = isObject(request.query) ? request.query : {}
  if (scope !== 'local' && scope !== 'cluster') {
    throw new errors.BadQuery('"scope" must be "local" or "cluster"')
  }
  return { scope, ...namingMissing(reply) }
}

/** Makes the function that adds the header for missing nodes to an answer. */
export function namingMissing(reply: FastifyReply): Required<Pick<Scope, 'onMissing'>> {
  return { onMissing: (nodes) => reply.header(MISSING, nodes.join(', ')) }
}

/** The schema of the header that names missing nodes. */
export function listMissing<Answer extends { missing: string[] }>({ missing, ...answer }: Answer): object {
  return missing.length === 0 ? answer : { ...answer, missing }
}
