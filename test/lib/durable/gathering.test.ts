import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { Gathering } from '../../../lib/durable/reads/gathering.js'
import { Turns } from '../../../lib/durable/reads/turns.js'
import { until } from '../../support/helper.js'

/** Jobs that run until the test ends them. */
function jobs(fullSize: number, atOnce: number) {
  const begun: { names: string[]; end: () => void }[] = []
  const gathering = new Gathering<string>({
    owner: 'test',
    turns: new Turns(atOnce),
    fullSize,
    window: [0, 500],
    run: (gathered) =>
      new Promise((resolve) => {
        begun.push({ names: gathered.flatMap(({ requests }) => requests), end: resolve })
      })
  })
  return { begun, gathering, names: () => begun.map(({ names }) => names.join(' ')) }
}

t.test(
  'requests that arrive while a job runs share the next job, with one key for all requests for the same',
  async (t) => {
    const { begun, gathering, names } = jobs(10, 2)
    gathering.ask('a', 1, 'a1')
    gathering.ask('b', 1, 'b1')
    gathering.ask('a', 1, 'a2')
    await until(() => begun.length === 1)
    t.same(names(), ['a1 a2 b1'])
    gathering.ask('a', 1, 'a3')
    await sleep(20)
    gathering.ask('c', 1, 'c1')
    t.equal(begun.length, 1)
    begun[0]!.end()
    await until(() => begun.length === 2)
    t.same(names(), ['a1 a2 b1', 'a3 c1'])
  }
)

t.test('full jobs run in parallel up to the limit of turns, in the order of the requests', async (t) => {
  const { begun, gathering, names } = jobs(2, 2)
  gathering.ask('a', 1, 'a')
  await until(() => begun.length === 1)
  for (const name of ['b', 'c', 'd', 'e', 'f']) gathering.ask(name, 1, name)
  // It is larger than a job, and gets one of its own.
  gathering.ask('large', 5, 'large')
  await until(() => begun.length === 2)
  await sleep(20)
  t.same(names(), ['a', 'b c'])
  for (let i = 0; i < 5; i++) {
    await until(() => begun.length > i)
    begun[i]!.end()
  }
  t.same(names(), ['a', 'b c', 'd e', 'f', 'large'])
})
