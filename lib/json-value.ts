/** What a value is that came from outside: of JSON, of a token, of an option. */

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A whole number without loss: RFC 8259, section 6, names these as the interoperable ones. */
export function isInteger(value: unknown): value is number {
  return Number.isSafeInteger(value)
}

/** A whole number that is not negative. */
export function isCount(value: unknown): value is number {
  return isInteger(value) && value >= 0
}
