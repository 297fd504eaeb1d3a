import assert from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import {
  elementsOf,
  hasImpossibleCharacter,
  JsonText,
  jsonObjectOf,
  jsonOf,
  membersOf,
  oneLine
} from '../../lib/json-text.js'
import { jsonObject, jsonText } from '../support/json.js'

t.test('finds the members of an object as JSON.parse does', async () => {
  fc.assert(
    fc.property(jsonObject(), (text) => {
      const members = membersOf(text)!
      const values = Object.entries(JSON.parse(text))
      // Each name once, with its last value.
      assert.deepEqual([...members.keys()].sort(), values.map(([name]) => name).sort())
      for (const [name, value] of values) assert.deepEqual(JSON.parse(members.get(name)!), value)
    }),
    { numRuns: 500 }
  )
})

t.test('accepts exactly what JSON.parse accepts', async () => {
  const parses = (text: string) => {
    try {
      return JSON.parse(text)
    } catch {
      return undefined
    }
  }
  const check = (text: string) => {
    const value = parses(text)
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
    assert.equal(membersOf(text) !== undefined, isObject, `as an object: ${text}`)
    assert.equal(elementsOf(text) !== undefined, Array.isArray(value), `as an array: ${text}`)
  }
  // A text with one character removed, doubled, or replaced.
  const spoilt = fc
    .tuple(jsonText(), fc.nat(), fc.nat(3), fc.constantFrom('', ...'{}[]",:\\ \n\u0000\u007f0-+.eEtn'))
    .map(([text, place, length, character]) => {
      const at = place % (text.length + 1)
      return text.slice(0, at) + character + text.slice(at + length)
    })
  fc.assert(fc.property(spoilt, check), { numRuns: 5000 })
  for (const text of [
    '',
    ' ',
    '{',
    '{}',
    '[]',
    '[,]',
    '[1,]',
    '{,}',
    '{"a":1,}',
    '{"a"}',
    '{"a":}',
    '{a:1}',
    '{}}',
    '{]',
    '[}',
    '[1}',
    '{"a":1]',
    '{"a":01}',
    '{"a":1.}',
    '{"a":.5}',
    '{"a":-}',
    '{"a":1e}',
    '{"a":+1}',
    '{"a":tru}',
    '{"a":"\\x"}',
    '{"a":"\\u12"}',
    '{"a":"\n"}',
    '\ufeff{}',
    '{}\u00a0',
    '[[[[]]]',
    '{"a":"b'
  ])
    check(text)
})

t.test('finds the elements of an array', async () => {
  fc.assert(
    fc.property(fc.array(jsonText()), (texts) => {
      assert.deepEqual(elementsOf(`[${texts.join(',')}]`), texts)
    }),
    { numRuns: 100 }
  )
})

t.test('writes an object whose members are already text', async () => {
  const number = membersOf('{"n":12345678901234567890.10}')!.get('n')!
  const text = jsonObjectOf({ 'a "b"': 1, none: undefined, n: new JsonText(number), nested: { c: [null] } })
  assert.equal(text, '{"a \\"b\\"":1,"n":12345678901234567890.10,"nested":{"c":[null]}}')
  assert.equal(jsonObjectOf({}), '{}')
  assert.equal(jsonObjectOf({ none: undefined }), '{}')
  assert.equal(jsonObjectOf(Object.fromEntries([['__proto__', {}]])), '{"__proto__":{}}')
})

t.test('accepts any depth', async (t) => {
  const depth = 1_000_000
  const deep = `${'['.repeat(depth)}${']'.repeat(depth)}`
  t.equal(membersOf(`{"payload":${deep},"a":1}`)?.get('payload'), deep)
  t.equal(membersOf(`{"payload":${deep.slice(1)},"a":1}`), undefined)
  const objects = `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`
  t.equal(elementsOf(`[${objects}]`)?.[0], objects)
})

t.test('replaces line breaks between tokens by spaces', async () => {
  fc.assert(
    fc.property(jsonText(), (text) => {
      const line = oneLine(text)
      assert.doesNotMatch(line, /[\r\n]/)
      assert.deepEqual(JSON.parse(line), JSON.parse(text))
      assert.equal(line.length, text.length)
    }),
    { numRuns: 200 }
  )
})

t.test('recognizes what jsonb cannot store', async (t) => {
  for (const [json, impossible] of [
    ['"hello"', false],
    ['"\\ud83d\\ude00"', false],
    ['"\\uD83D\\uDE00\\uD83D\\uDE00"', false],
    ['"\\\\u0000"', false],
    ['"\\\\ud800"', false],
    ['"\\u0000"', true],
    ['"\\\\\\u0000"', true],
    ['"\\ud800"', true],
    ['"\\uDE00"', true],
    ['"\\ude00\\ud83d"', true],
    ['"\\ud83d\\ud83d\\ude00"', true],
    ['"\\ud83d \\ude00"', true],
    ['"\\ud83d\\n\\ude00"', true]
  ] as const) {
    t.equal(hasImpossibleCharacter(json), impossible, json)
  }
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      assert.equal(hasImpossibleCharacter(jsonOf(text)), text.includes('\0'))
    }),
    { numRuns: 200 }
  )
})
