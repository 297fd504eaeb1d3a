import { isObject } from '../json-value.js'

/** The place of a value in a token's claims. */
export type ClaimPath = readonly Step[]

/** The name of a member, the index in a list, or a test that selects the first matching string of a list. */
type Step = string | number | ((text: string) => boolean)

/** The operators in `[?(@ == "text")]`, as in PostgREST. */
const OPERATORS: Record<string, (text: string, operand: string) => boolean> = {
  '==': (text, operand) => text === operand,
  '!=': (text, operand) => text !== operand,
  '^==': (text, operand) => text.startsWith(operand),
  '==^': (text, operand) => text.endsWith(operand),
  '*==': (text, operand) => text.includes(operand)
}

const STEP = /\.([\w$@]+)|\."([^"]+)"|\[(\d{1,9})\]|\[\?\(@ {0,9}(==\^|\^==|\*==|==|!=) {0,9}"([^"]*)"\)\]/y

/**
 * Parses the place of a claim. A text that begins with `.` is a path, in the syntax of PostgREST's `jwt-role-claim-key`
 * (https://docs.postgrest.org/en/stable/references/auth.html#jwt-role-claim-key): `.realm_access.roles`,
 * `."https://example.org/roles"[0]`, `.roles[?(@ ^== "app_")]`. Any other is the name of a claim.
 * @returns undefined for an invalid path
 */
export function parseClaimPath(text: string): ClaimPath | undefined {
  if (!text.startsWith('.')) return [text]
  const path: Step[] = []
  STEP.lastIndex = 0
  while (STEP.lastIndex < text.length) {
    // Only the last step may be a test.
    const match = typeof path.at(-1) === 'function' ? null : STEP.exec(text)
    if (match === null) return undefined
    const [, name, quotedName, index, operator, operand] = match
    if (index !== undefined) path.push(Number(index))
    else if (operator !== undefined) path.push((item) => OPERATORS[operator]!(item, operand!))
    else path.push((name ?? quotedName)!)
  }
  return path
}

/** The value at a place in a token's claims; undefined if there is none. */
export function valueAt(claims: Readonly<Record<string, unknown>>, path: ClaimPath): unknown {
  let value: unknown = claims
  for (const step of path) {
    if (typeof value !== 'object' || value === null) return undefined
    if (typeof step === 'string') {
      value = Object.hasOwn(value, step) ? Reflect.get(value, step) : undefined
      continue
    }
    if (!Array.isArray(value)) return undefined
    value =
      typeof step === 'number' ? value[step] : value.find((item) => typeof item === 'string' && step(item))
  }
  return value
}

/**
 * Puts a value at a place in a token's claims.
 * @returns whether it could be put there. It cannot be put into a list, or into a value that is not an object.
 */
export function putAt(claims: Record<string, unknown>, path: ClaimPath, value: unknown): boolean {
  let target = claims
  for (const [index, step] of path.entries()) {
    if (typeof step !== 'string') return false
    const last = index === path.length - 1
    const existing = Object.hasOwn(target, step) ? target[step] : undefined
    const next = last ? value : (existing ?? {})
    if (!last && !isObject(next)) return false
    // A claim may have the name "__proto__".
    Object.defineProperty(target, step, { value: next, enumerable: true, configurable: true, writable: true })
    if (isObject(next)) target = next
  }
  return true
}
