import type { FastifyRequest } from 'fastify'
import { errors } from '../lib/errors.js'
import { isObject } from '../lib/json-value.js'

/** A name that is repeated in an error is cut to this length. */
const MAX_NAME_LENGTH = 50

/**
 * Refuses unknown parameters of a query. A misspelled one (`?sinec=`) would otherwise be ignored, and the client would get
 * another answer than it has requested.
 * @param querystring the schema of the known parameters. Default: that of the request's route
 * @throws BadQuery (400), which names the unknown parameter and the known ones
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

/** The value of a parameter of a query. @throws BadQuery (400) if it is repeated */
export function textOf(query: unknown, name: string): string | undefined {
  const value = isObject(query) ? query[name] : undefined
  if (value === undefined || typeof value === 'string') return value
  throw new errors.BadQuery(`"${name}" must be given once`)
}

/** The end of a sentence about an unknown name, with the known names. */
export function nameAndKnown(unknown: string, known: readonly string[]): string {
  const names = known.map((name) => `"${name}"`).join(', ')
  return `${JSON.stringify(unknown.slice(0, MAX_NAME_LENGTH))} is unknown here: ${names === '' ? 'there are none' : `there are ${names}`}`
}
