/** Type checks for values from outside: from JSON, a token or an option. */

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Whether a value is a safe integer, which RFC 8259, section 6, calls interoperable. */
export function isInteger(value: unknown): value is number {
  return Number.isSafeInteger(value)
}

/** Whether a value is a non-negative safe integer. */
export function isCount(value: unknown): value is number {
  return isInteger(value) && value >= 0
}
