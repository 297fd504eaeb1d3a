import { join } from 'node:path'
import t from 'tap'
import { root } from '../support/root.js'

/** A sample of a node. */
interface Sample {
  at: number
  stats: Record<string, number | null>
}
type Values = (number | null)[]
type Read = (stats: Sample['stats']) => number | null | undefined
type Value = (current: Sample, previous: Sample) => number | null

// The modules that do not need a page.
Object.assign(globalThis, { location: { pathname: '/dashboard' } })
const load = (name: string) => import(join(root, 'public/dashboard', name))
const { combined, growth, latestRate, max, rateOf, sampled, sum, timesOf, figureOf } = (await load(
  'series.js'
)) as {
  combined(lists: Values[], combine: (values: number[]) => number): Values
  growth(samples: Sample[], times: number[], read: Read): Values
  latestRate(samples: Sample[], read: Read): number | null
  max(values: number[]): number
  rateOf(read: Read): Value
  sampled(samples: Sample[], times: number[], value: Value): Values
  sum(values: number[]): number
  timesOf(nodes: { reporting: boolean; samples: Sample[] }[]): number[]
  figureOf(read: Read): Value
}
const { eventsOf } = (await load('api.js')) as {
  eventsOf(answer: { body: ReadableStream }): AsyncIterable<{ type: string; data: string; id?: string }>
}
const format = (await load('format.js')) as Record<
  'bytes' | 'duration' | 'number',
  (value: unknown) => string
>

const read: Read = ({ total }) => total
const samplesOf = (...totals: [number, number | null][]): Sample[] =>
  totals.map(([at, total]) => ({ at, stats: { total } }))

t.test('a rate is the growth of a counter divided by the time', async (t) => {
  const samples = samplesOf([0, 100], [10, 200], [11, 260], [12, 260])
  t.same(sampled(samples, [0, 5, 10, 11, 12, 13], rateOf(read)), [10, 10, 10, 60, 0, null])
  t.equal(latestRate(samples, read), 160 / 12)
  t.equal(latestRate(samplesOf([0, 5]), read), null)
})

t.test('there is no rate across a restart, and no point across a pause', async (t) => {
  t.same(sampled(samplesOf([0, 100], [1, 5], [2, 9]), [1, 2], rateOf(read)), [null, 4])
  t.same(sampled(samplesOf([0, 1], [100, 2]), [0, 50, 100], figureOf(read)), [null, null, null])
  t.equal(latestRate(samplesOf([0, 1], [100, 2]), read), null)
})

t.test('an unknown figure is null, and not zero', async (t) => {
  t.same(sampled(samplesOf([0, 1], [1, null], [2, 0]), [1, 2], figureOf(read)), [null, 0])
})

t.test('sums up all nodes, without those that sent no sample', async (t) => {
  t.same(
    combined(
      [
        [1, null, 3],
        [10, null, null]
      ],
      sum
    ),
    [11, null, 3]
  )
  t.same(
    combined(
      [
        [1, 2],
        [10, null]
      ],
      max
    ),
    [10, 2]
  )
  t.same(combined([], sum), [])
})

t.test('the last time is the last one for which all current nodes sent a sample', async (t) => {
  const nodes = [
    { reporting: true, samples: samplesOf([1000, 1], [1009.5, 1]) },
    { reporting: true, samples: samplesOf([1000, 1], [1007.9, 1]) },
    { reporting: false, samples: samplesOf([1000, 1]) }
  ]
  const times = timesOf(nodes)
  t.equal(times.at(-1), 1006)
  t.equal(times[0], 406)
  t.same(timesOf([]), [])
})

t.test('counts a reason from its first occurrence', async (t) => {
  const samples: Sample[] = [
    { at: 0, stats: {} },
    { at: 10, stats: { slow: 3 } },
    { at: 20, stats: { slow: 3 } },
    { at: 30, stats: { slow: 10 } }
  ]
  t.same(
    growth(samples, [0, 10, 20, 30], ({ slow }) => slow),
    [null, 3, 0, 7]
  )
})

t.test('reads events, however the answer is split', async (t) => {
  const text =
    ': hello\n\nid: a-1\nevent: Event\ndata: {"text":"ü <b>"}\n\ndata: one\ndata: two\r\n\r\ndata: unfinished'
  const bytes = Buffer.from(text)
  for (const size of [1, 2, 3, 7, bytes.length]) {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.subarray(at, at + size))
        controller.close()
      }
    })
    const events = []
    for await (const event of eventsOf({ body })) events.push(event)
    t.same(events, [
      { type: 'Event', id: 'a-1', data: '{"text":"ü <b>"}' },
      { type: 'message', data: 'one\ntwo' }
    ])
  }
})

t.test('formats figures briefly, and unknown ones as a dash', async (t) => {
  for (const [value, text] of [
    [0, '0 B'],
    [1023, '1,023 B'],
    [1536, '1.5 KiB'],
    [5 * 2 ** 30, '5 GiB'],
    [undefined, '–'],
    [Number.NaN, '–']
  ] as const) {
    t.equal(format.bytes(value), text)
  }
  t.equal(format.duration(90_061_000), '1 d 1 h')
  t.equal(format.duration(61_000), '1 min 1 s')
  t.equal(format.duration(0), '0 s')
  t.equal(format.number(null), '–')
  t.equal(format.number(0.04), '0')
  t.equal(format.number(1234.5), '1,235')
})
