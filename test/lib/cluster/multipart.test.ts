import t from 'tap'
import { Multipart } from '../../../lib/cluster/multipart.js'

t.test('a question is there once its last part is, whatever others ask meanwhile', async (t) => {
  const parts = new Multipart()
  t.equal(parts.add('a 1', 0, '{"n":', false), undefined)
  t.equal(parts.add('b 1', 0, '[1', false), undefined)
  t.same(parts.add('a 1', 1, '1}', true), { n: 1 })
  t.same(parts.add('b 1', 1, ']', true), [1])
  t.same(parts.add('c 1', 0, '"whole"', true), 'whole')
})

t.test('where a part was lost, or is of no JSON, there is no question', async (t) => {
  const parts = new Multipart()
  parts.add('a 1', 0, '[1', false)
  t.equal(parts.add('a 1', 2, ']', true), undefined)
  t.equal(parts.add('a 1', 1, ']', true), undefined)
  t.equal(parts.add('a 2', 0, 'no json', true), undefined)
})

t.test('what is never complete takes only so much memory: the oldest goes', async (t) => {
  const parts = new Multipart()
  parts.add('a 1', 0, '[1', false)
  for (let i = 0; i < 20; i++) parts.add(`b ${i}`, 0, `"${'x'.repeat(1024 * 1024)}`, false)
  t.equal(parts.add('a 1', 1, ']', true), undefined)
  t.match(parts.add('b 19', 1, '"', true), /^x+$/)
})
