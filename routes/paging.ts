import type { FastifyReply, FastifyRequest } from 'fastify'
import { errors } from '../lib/errors.js'
import { isObject } from '../lib/json-value.js'
import { MAX_PAGE, type Paging } from '../lib/page.js'

/** The headers of a page: the `after` of the next page, and how many items match. */
const NEXT = 'x-pgws-next'
const TOTAL = 'x-pgws-total'

export const pagingSchema = {
  limit: {
    type: 'string',
    description: `The maximum number of items, 1 to ${MAX_PAGE}. Default: all of them.`,
    examples: ['100']
  },
  after: { type: 'string', description: `The header ${NEXT} of the previous page.` }
}

export const pagingHeaders = {
  [NEXT]: { type: 'string', description: 'The "after" of the next page. The last page has none.' },
  [TOTAL]: { type: 'integer', description: 'How many items match, on all pages.' }
}

/**
 * Reads which page a request wants, and makes the function that adds the headers of a page to its answer. The list checks
 * the values.
 * @throws BadQuery (400)
 */
export function answeringPage(request: FastifyRequest, reply: FastifyReply): Paging {
  const { limit, after } = isObject(request.query) ? request.query : {}
  if (after !== undefined && typeof after !== 'string') {
    throw new errors.BadQuery('"after" must be a single string')
  }
  return {
    // An empty text is no number here.
    limit: limit === undefined ? undefined : Number(limit === '' ? Number.NaN : limit),
    after,
    onPage({ total, next }) {
      reply.header(TOTAL, total)
      if (next !== undefined) reply.header(NEXT, next)
    }
  }
}
