import type { FastifyRequest } from 'fastify'
import { errors } from '../lib/errors.js'

/** A name that is repeated in an error is cut to this length. */
const MAX_NAME_LENGTH = 50

/**
 * Refuses parameters that an address does not have. A misspelled one (`?sinec=`) would otherwise be ignored, and the answer
 * be another than the one that was asked for.
 * @param querystring the schema of those that it has. Default: that of the request's route
 * @throws BadQuery (400), which names the parameter and those that are known
 */
export function checkQuery(
  { query, routeOptions }: FastifyRequest,
  querystring: unknown = routeOptions.schema?.querystring
): void {
  // Fastify's types say nothing about schemas and parsed queries.
  const { properties = {} } = (querystring ?? {}) as { properties?: object }
  const known = Object.keys(properties)
  const unknown = Object.keys(query as object).find((name) => !known.includes(name))
  if (unknown === undefined) return
  throw new errors.BadQuery(`the parameter ${nameAndKnown(unknown, known)}`)
}

/** The rest of a sentence about a name that is not known, with those that are. */
export function nameAndKnown(unknown: string, known: readonly string[]): string {
  const names = known.map((name) => `"${name}"`).join(', ')
  return `${JSON.stringify(unknown.slice(0, MAX_NAME_LENGTH))} is unknown here: ${names === '' ? 'there are none' : `there are ${names}`}`
}
