// Strange values, and values of types that are right or nearly right.
import { createHmac } from 'node:crypto'
import fc from 'fast-check'

export const SECRET = 'a secret for the fuzzer, and nothing else'
export const LISTEN_CHANNEL = 'postgres-websockets-listener'
export const AUDIENCE_CHANNEL = 'audience-events'

/** The channels of strangers. Witnesses have others. */
export const CHANNELS = ['fuzz:a', 'fuzz:b', 'kept:a', 'kept:b', 'room:a', 'raw:a']

export function token(claims, secret = SECRET) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
  return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`
}

const channel_patterns = ['fuzz:*', 'kept:*', 'room:*', 'raw:*']
const good = {
  r: token({ mode: 'r', channel_patterns, sub: 'reader' }),
  w: token({ mode: 'w', channel_patterns, sub: 'writer' }),
  rw: token({ mode: 'rw', channel_patterns, sub: 'both' })
}

/** Tokens by a short name, so that a counterexample can be read. */
export const tokens = {
  ...good,
  admin: token({ mode: 'r', admin: true, channel_patterns }),
  numbers: token({ mode: 'rw', sub: 7, exp: 4e9, channels: [1, null, 'fuzz:a'] }),
  prototype: token({ mode: 'rw', channels: ['__proto__', 'constructor', '\0audience 0 admins', '\ud800'] }),
  expired: token({ mode: 'rw', exp: 1 }),
  forged: token({ mode: 'rw', admin: true }, 'another secret'),
  halves: good.rw.split('.').slice(0, 2).join('.'),
  headers: 'eyJ'.repeat(4000),
  empty: ''
}
export const anyToken = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom('r', 'w', 'rw', 'rw', 'rw') },
  { weight: 2, arbitrary: fc.constantFrom(...Object.keys(tokens)) }
)

/** A text that repeats another one, so that counterexamples are short. */
export const textOf = ({ times, text }) => text.repeat(times)
const repeated = (text, maximum) =>
  fc.record({ times: fc.oneof(fc.constant(1), fc.integer({ min: 0, max: maximum })), text })

const STRANGE = [
  '',
  ' ',
  '\0',
  '\0audience 0 admins',
  '\ud800',
  '\udfff x',
  '__proto__',
  'constructor',
  'toString',
  'null',
  '\u2028\u2029\r\n',
  '"\\\'`$ {}%00%zz',
  '温',
  '😀',
  'a'.repeat(64),
  'earliest',
  '00000000-0000000000000000',
  'ffffffff-ffffffffffffffff'
]
export const anyText = fc.oneof(
  fc.constantFrom(...STRANGE),
  fc.string({ unit: 'binary', maxLength: 20 }),
  repeated(fc.constantFrom('x', '温', '\\', '"', '{"a":', '[', '*', ':', 'eyJ', '\\u0000'), 9000).map(textOf)
)
export const anyNumber = fc.oneof(
  fc.constantFrom(0, -0, 1, -1, 0.5, 2 ** 31, 2 ** 53, 2 ** 63, -(2 ** 63), 1e308, 1e-308),
  fc.integer(),
  fc.double({ noNaN: true, noDefaultInfinity: true })
)

/** JSON texts, some of which are nested more deeply than a stack allows. */
export const deepJson = repeated(fc.constantFrom('[', '{"a":', '[[],'), 6000).map(({ times, text }) => {
  const end = text.startsWith('{') ? '}' : ']'
  return `${text.repeat(times)}${text === '{"a":' ? '1' : '0'}${end.repeat(times)}`
})
export const anyValue = fc.oneof(
  { weight: 3, arbitrary: fc.jsonValue({ maxDepth: 2 }) },
  anyText,
  anyNumber,
  fc.constantFrom(null, true, [], {}, JSON.parse('{"__proto__":{"admin":true}}'))
)
export const anyChannel = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...CHANNELS) },
  { weight: 1, arbitrary: fc.constantFrom('raw:\ud800', `raw:${'a'.repeat(70)}`, 'raw:温') },
  { weight: 1, arbitrary: anyText }
)

/**
 * Objects that are right except for a member or two, which have another type or are missing.
 * @param members arbitraries of what is right
 */
export function nearly(members) {
  const keys = Object.keys(members)
  return fc
    .tuple(fc.record(members), fc.dictionary(fc.constantFrom(...keys), fc.option(anyValue), { maxKeys: 2 }))
    .map(([right, wrong]) => {
      const value = { ...right }
      for (const [key, other] of Object.entries(wrong)) {
        if (other === null) delete value[key]
        else value[key] = other
      }
      return value
    })
}

/** Changes a text so that PostgreSQL can store it: without NUL, and well-formed. */
export const forDatabase = (text) => Buffer.from(String(text).replaceAll('\0', '')).toString()
