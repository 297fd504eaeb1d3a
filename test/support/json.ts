import fc from 'fast-check'

/** White space in JSON (RFC 8259, section 2). */
const blanks = fc.string({ unit: fc.constantFrom(' ', '\n', '\r', '\t'), maxLength: 3 })

const digits = (least: number) =>
  fc.string({ unit: fc.constantFrom(...'0123456789'), minLength: least, maxLength: 40 })

/** The texts of numbers of any size and precision. */
const numbers = fc
  .tuple(
    fc.constantFrom('', '-'),
    fc.oneof(
      fc.constant('0'),
      fc.tuple(fc.constantFrom(...'123456789'), digits(0)).map((parts) => parts.join(''))
    ),
    fc.option(
      digits(1).map((text) => `.${text}`),
      { nil: '' }
    ),
    fc.option(
      fc
        .tuple(fc.constantFrom('e', 'E'), fc.constantFrom('', '+', '-'), fc.nat(400))
        .map((parts) => parts.join('')),
      { nil: '' }
    )
  )
  .map((parts) => parts.join(''))

/** A character that PostgreSQL's jsonb can store, literal or escaped. */
const character = fc.oneof(
  fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: 1 })
    .map((text) => JSON.stringify(text).slice(1, -1)),
  fc.constantFrom(
    '\\n',
    '\\/',
    '\\"',
    '\\\\',
    '\\u0041',
    '\\u00e9',
    '\\ud83d\\ude00',
    '\\uD83D\\uDE00',
    'é',
    '😀',
    '\u007f',
    '\u2028'
  )
)

const strings = fc.array(character, { maxLength: 8 }).map((parts) => `"${parts.join('')}"`)

/** Names of members. Some are frequent, so that objects have duplicate names. */
const names = fc.oneof(
  strings,
  fc.constantFrom('"a"', '"\\u0061"', '"b"', '"__proto__"', '"constructor"', '""', '"payload"', '"channel"')
)

function around<Value>(arbitrary: fc.Arbitrary<Value>): fc.Arbitrary<string> {
  return fc.tuple(blanks, arbitrary, blanks).map((parts) => parts.join(''))
}

const { value, object } = fc.letrec<{ value: string; object: string; array: string }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    numbers,
    strings,
    fc.constantFrom('true', 'false', 'null'),
    tie('object'),
    tie('array')
  ),
  object: fc
    .array(fc.tuple(around(names), around(tie('value'))), { maxLength: 6 })
    .map((members) => `{${members.map(([name, member]) => `${name}:${member}`).join(',') || ' '}}`),
  array: fc.array(around(tie('value')), { maxLength: 6 }).map((elements) => `[${elements.join(',')}]`)
}))

/** Texts of JSON values with any numbers, escapes, key orders, duplicate keys, and white space between tokens. */
export function jsonText(): fc.Arbitrary<string> {
  return value
}

/** The same for JSON objects. */
export function jsonObject(): fc.Arbitrary<string> {
  return object
}
