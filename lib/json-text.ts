import { asError, errors, messageOf } from './errors.js'

/**
 * JSON as text (RFC 8259): finds the parts of a JSON text without parsing it into values. A text that is passed on
 * unchanged keeps the digits of its numbers, the order of its keys and its escapes, and may be nested to any depth.
 */

/** A JSON value that is passed on as the text that arrived. */
export class JsonText {
  readonly text: string

  /** @param text the text of a JSON value, found by one of the functions below */
  constructor(text: string) {
    this.text = text
  }
}

/**
 * The members of an object, by name. If a name is repeated, the last one counts, as in JSON.parse and jsonb.
 * @param text is checked as a whole
 * @returns the texts of the values; undefined if the text is not a JSON object
 */
export function membersOf(text: string): Map<string, string> | undefined {
  const members = new Map<string, string>()
  const isObject = scan(text, OBJECT, (start, end, nameStart, nameEnd) => {
    members.set(stringAt(text, nameStart, nameEnd), text.slice(start, end))
  })
  return isObject ? members : undefined
}

/**
 * Calls a function with each member of an object, in order, including repeated names.
 * @param text is checked as a whole; only the result says whether it is valid
 * @param onMember is called with the name, the text of the value, and the text of the whole member
 * @returns whether the text is a JSON object
 */
export function eachMember(
  text: string,
  onMember: (name: string, value: string, member: string) => void
): boolean {
  return scan(text, OBJECT, (start, end, nameStart, nameEnd) => {
    onMember(stringAt(text, nameStart, nameEnd), text.slice(start, end), text.slice(nameStart, end))
  })
}

/**
 * The elements of an array.
 * @param text is checked as a whole
 * @returns the texts of the values; undefined if the text is not a JSON array
 */
export function elementsOf(text: string): string[] | undefined {
  const elements: string[] = []
  const isArray = scan(text, ARRAY, (start, end) => elements.push(text.slice(start, end)))
  return isArray ? elements : undefined
}

/** The value of a member that is a string; undefined for any other value. */
export function stringIn(members: Map<string, string> | undefined, name: string): string | undefined {
  const json = members?.get(name)
  return json?.startsWith('"') ? stringAt(json, 0, json.length) : undefined
}

/**
 * The JSON text of a value, or of a JsonText.
 * @throws BadMessage (400) for what JSON cannot represent: undefined, a function, a BigInt, a cycle, or too many levels
 */
export function jsonOf(value: unknown): string {
  if (value instanceof JsonText) return value.text
  let json: string | undefined
  try {
    json = JSON.stringify(value)
  } catch (error) {
    const [reason] = messageOf(error).split('\n')
    throw new errors.BadMessage(`it cannot be written as JSON: ${reason}`, { cause: asError(error) })
  }
  if (json === undefined)
    throw new errors.BadMessage(`it must be a JSON value, not a value of type ${typeof value}`)
  return json
}

/**
 * The JSON text of an object, whose values are encoded by `jsonOf`. Undefined values are left out.
 * @throws TypeError, RangeError as JSON.stringify
 */
export function jsonObjectOf(members: Record<string, unknown>): string {
  return `{${jsonMembersOf(members)}}`
}

/** The same without the braces, so that other members can be added. */
export function jsonMembersOf(members: Record<string, unknown>): string {
  let text = ''
  for (const [name, value] of Object.entries(members)) {
    if (value !== undefined) text += `${text === '' ? '' : ','}${JSON.stringify(name)}:${jsonOf(value)}`
  }
  return text
}

/** Escapes all characters beyond ASCII (RFC 8259, section 7: any character may be escaped). */
export function toAscii(json: string): string {
  return json.replace(
    /[\u007f-\uffff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  )
}

/** Replaces line breaks by spaces. They are only white space, because JSON strings contain none. */
export function oneLine(json: string): string {
  return json.includes('\n') || json.includes('\r') ? json.replace(/[\r\n]/g, ' ') : json
}

/**
 * Whether a JSON text has an escape that neither jsonb nor UTF-8 can represent: NUL, or a lone surrogate
 * (https://www.postgresql.org/docs/current/datatype-json.html).
 */
export function hasImpossibleCharacter(json: string): boolean {
  if (!json.includes('\\u')) return false
  // Where a high surrogate ends. Its low surrogate must begin there.
  let pairAt = -1
  for (const { 1: digits, index } of json.matchAll(/\\(?:u([0-9a-fA-F]{4})|.)/gs)) {
    const unit = digits === undefined ? -1 : Number.parseInt(digits, 16)
    const low = unit >= 0xdc00 && unit <= 0xdfff
    if (pairAt !== -1 && !(low && index === pairAt)) return true
    if (unit === 0 || (low && pairAt === -1)) return true
    pairAt = unit >= 0xd800 && unit <= 0xdbff ? index + 6 : -1
  }
  return pairAt !== -1
}

/**
 * Replaces each escape that neither jsonb nor UTF-8 can represent by U+FFFD.
 * @param json a text from JSON.stringify, which does not escape complete surrogate pairs
 */
export function withPossibleCharacters(json: string): string {
  if (!hasImpossibleCharacter(json)) return json
  return json.replace(/\\(?:u(0000|d[89a-f][0-9a-f]{2})|.)/gs, (sequence, impossible) =>
    impossible === undefined ? sequence : '\ufffd'
  )
}

/** The value of a JSON string, including its quotation marks. */
function stringAt(text: string, start: number, end: number): string {
  const string = text.slice(start + 1, end - 1)
  return string.includes('\\') ? JSON.parse(text.slice(start, end)) : string
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const COMMA = 0x2c
const COLON = 0x3a
const OBJECT = 0x7b
const ARRAY = 0x5b
const OBJECT_END = 0x7d
const ARRAY_END = 0x5d

/** A number (RFC 8259, section 6), unescaped characters of a string, and an escape (section 7), each at `lastIndex`. */
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y
const UNESCAPED = /[\x20-\x21\x23-\x5b\x5d-\uffff]*/y
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/y

/** How many characters of a string are checked one by one before a regular expression is faster. */
const SHORT = 24

/** Is called with the bounds of each value of the outermost container, and of its name if the container is an object. */
type OnPart = (start: number, end: number, nameStart: number, nameEnd: number) => void

/**
 * Scans a text once, without recursion. It needs one byte of memory for each level of nesting.
 * @returns whether the text is exactly one container of the given kind
 */
function scan(text: string, kind: typeof OBJECT | typeof ARRAY, onPart: OnPart): boolean {
  let at = skipBlanks(text, 0)
  if (text.charCodeAt(at) !== kind) return false
  let open = new Uint8Array(16)
  let depth = 0
  let start = 0
  let nameStart = 0
  let nameEnd = 0
  let named = false
  for (;;) {
    if (named) {
      if (text.charCodeAt(at) !== QUOTE) return false
      const end = endOfString(text, at)
      if (end === -1) return false
      if (depth === 1) {
        nameStart = at
        nameEnd = end
      }
      at = skipBlanks(text, end)
      if (text.charCodeAt(at) !== COLON) return false
      at = skipBlanks(text, at + 1)
    }
    if (depth === 1) start = at
    const code = text.charCodeAt(at)
    if (code === OBJECT || code === ARRAY) {
      if (depth === open.length) open = grown(open)
      open[depth++] = code
      at = skipBlanks(text, at + 1)
      if (text.charCodeAt(at) !== endOf(code)) {
        named = code === OBJECT
        continue
      }
    } else {
      at = code === QUOTE ? endOfString(text, at) : endOfScalar(text, at, code)
      if (at === -1) return false
      if (depth === 1) onPart(start, at, nameStart, nameEnd)
      at = skipBlanks(text, at)
    }
    // After a value, or at the end of an empty container.
    while (text.charCodeAt(at) === endOf(open[depth - 1]!)) {
      at++
      if (--depth === 0) return skipBlanks(text, at) === text.length
      if (depth === 1) onPart(start, at, nameStart, nameEnd)
      at = skipBlanks(text, at)
    }
    if (text.charCodeAt(at) !== COMMA) return false
    at = skipBlanks(text, at + 1)
    named = open[depth - 1] === OBJECT
  }
}

function endOf(container: number): number {
  return container === OBJECT ? OBJECT_END : ARRAY_END
}

function grown(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const larger = new Uint8Array(bytes.length * 2)
  larger.set(bytes)
  return larger
}

function skipBlanks(text: string, start: number): number {
  let at = start
  for (;;) {
    const code = text.charCodeAt(at)
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return at
    at++
  }
}

/** @returns -1 if it is not a JSON string (section 7) */
function endOfString(text: string, start: number): number {
  let at = start + 1
  for (const end = at + SHORT; at < end; at++) {
    const code = text.charCodeAt(at)
    if (code === QUOTE) return at + 1
    if (code === BACKSLASH || !(code >= 0x20)) break
  }
  for (;;) {
    // Three times as fast as a loop over the characters.
    UNESCAPED.lastIndex = at
    UNESCAPED.test(text)
    at = UNESCAPED.lastIndex
    const code = text.charCodeAt(at)
    if (code === QUOTE) return at + 1
    if (code !== BACKSLASH) return -1
    ESCAPE.lastIndex = at
    if (!ESCAPE.test(text)) return -1
    at = ESCAPE.lastIndex
  }
}

/** @returns -1 if it is neither a number nor a literal */
function endOfScalar(text: string, start: number, code: number): number {
  // t, f, n
  const literal = code === 0x74 ? 'true' : code === 0x66 ? 'false' : code === 0x6e ? 'null' : undefined
  if (literal !== undefined) return text.startsWith(literal, start) ? start + literal.length : -1
  NUMBER.lastIndex = start
  return NUMBER.test(text) ? NUMBER.lastIndex : -1
}
