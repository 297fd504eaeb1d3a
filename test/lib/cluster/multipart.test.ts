import t from 'tap'
import { Multipart } from '../../../lib/cluster/messages/multipart.js'

t.test('returns a message once its last part has arrived, with other messages in between', async (t) => {
  const parts = new Multipart()
  t.equal(parts.add('a 1', 0, '{"n":', false), undefined)
  t.equal(parts.add('b 1', 0, '[1', false), undefined)
  t.same(parts.add('a 1', 1, '1}', true), { n: 1 })
  t.same(parts.add('b 1', 1, ']', true), [1])
  t.same(parts.add('c 1', 0, '"whole"', true), 'whole')
})

t.test('returns no message if a part was lost, or is not JSON', async (t) => {
  const parts = new Multipart()
  parts.add('a 1', 0, '[1', false)
  t.equal(parts.add('a 1', 2, ']', true), undefined)
  t.equal(parts.add('a 1', 1, ']', true), undefined)
  t.equal(parts.add('a 2', 0, 'no json', true), undefined)
})

t.test('limits the memory of incomplete messages by dropping the oldest', async (t) => {
  const parts = new Multipart()
  parts.add('a 1', 0, '[1', false)
  for (let i = 0; i < 20; i++) parts.add(`b ${i}`, 0, `"${'x'.repeat(1024 * 1024)}`, false)
  t.equal(parts.add('a 1', 1, ']', true), undefined)
  t.match(parts.add('b 19', 1, '"', true), /^x+$/)
})

t.test('a message that starts again counts as the newest', async (t) => {
  const parts = new Multipart()
  const large = 'x'.repeat(7 * 1024 * 1024)
  parts.add('a', 0, '[1', false)
  parts.add('b', 0, `"${large}`, false)
  parts.add('a', 0, '[2', false)
  parts.add('c', 0, `"${large}`, false)
  // Only two of the three large ones fit.
  parts.add('d', 0, `"${large}`, false)
  t.equal(parts.add('b', 1, '"', true), undefined)
  t.same(parts.add('a', 1, ']', true), [2])
  t.equal(parts.add('c', 1, '"', true), large)
  t.equal(parts.add('d', 1, '"', true), large)
  // Nothing is left, so the count starts again.
  for (const name of ['e', 'f', 'g']) parts.add(name, 0, `"${large}`, false)
  t.equal(parts.add('e', 1, '"', true), undefined)
  t.equal(parts.add('g', 1, '"', true), large)
})
