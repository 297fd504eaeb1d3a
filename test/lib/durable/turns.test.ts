import { setImmediate as nextTurn } from 'node:timers/promises'
import t from 'tap'
import { Turns } from '../../../lib/durable/reads/turns.js'

t.test('runs a limited number of jobs at a time, taking one job of each waiting owner in turn', async (t) => {
  const turns = new Turns(2)
  const begun: string[] = []
  const ends: (() => void)[] = []
  const take = (who: string, name: string) =>
    turns.take(who, () => {
      begun.push(name)
      return new Promise<string>((resolve) => ends.push(() => resolve(name)))
    })
  const much = ['a1', 'a2', 'a3', 'a4', 'a5'].map((name) => take('a', name))
  const little = [take('b', 'b1'), take('c', 'c1')]
  t.same(begun, ['a1', 'a2'])
  while (ends.length > 0) {
    ends.shift()!()
    await nextTurn()
  }
  t.same(begun, ['a1', 'a2', 'a3', 'b1', 'c1', 'a4', 'a5'])
  t.same(await Promise.all([...much, ...little]), ['a1', 'a2', 'a3', 'a4', 'a5', 'b1', 'c1'])
})

t.test('a job that fails frees its place', async (t) => {
  const turns = new Turns(1)
  for (let i = 0; i < 3; i++) {
    await t.rejects(
      turns.take('a', () => Promise.reject(new Error('failed'))),
      { message: 'failed' }
    )
  }
  t.equal(await turns.take('a', async () => 'done'), 'done')
})
