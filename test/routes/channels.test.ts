import t from 'tap'
import { type ListedChannel, listChannels } from '../../lib/channels/index.js'
import { build, open, token, until, withPostgres } from '../support/helper.js'

const { migrated } = await withPostgres(t)
const dbUri = await migrated('kept:*')
const options = { dbUri, presenceChannels: 'here', rawChannels: 'raw' }
const { http, ws, fastify } = await build(t, options)
const other = await build(t, options)
const rw = token({ mode: 'rw' })
const EVIL = '<img src=x> ü "\'%&?#/'
const names = [
  'kept:a',
  'here',
  'raw',
  EVIL,
  ...Array.from({ length: 30 }, (_, n) => `many:${String(n).padStart(2, '0')}`)
]
for (const name of names) await open(t, `${ws}/${encodeURIComponent(name)}/${rw}`)
const writer = await open(t, `${ws}/busy/${rw}`)
for (let n = 0; n < 3; n++) await open(t, `${other.ws}/busy/${rw}`)

async function get(query: Record<string, string> = {}, base = http) {
  const response = await fetch(`${base}/channels?${new URLSearchParams(query)}`, {
    headers: { authorization: `Bearer ${token({ admin: true })}` }
  })
  const body = (await response.json()) as ListedChannel[] & { message?: string }
  const { status, headers } = response
  return { status, body, total: headers.get('x-pgws-total'), next: headers.get('x-pgws-next') }
}
const namesOf = (channels: ListedChannel[]) => channels.map(({ channel }) => channel)

/** All pages of a list. */
async function pages(query: Record<string, string>): Promise<ListedChannel[][]> {
  const all: ListedChannel[][] = []
  for (let after: string | null = ''; after !== null; ) {
    const { status, body, next, total } = await get({ ...query, ...(after !== '' && { after }) })
    t.equal(status, 200)
    t.equal(total, (await get({ ...query, limit: '1' })).total)
    all.push(body)
    after = next
  }
  return all
}

t.test('lists all channels by name, with their kinds', async (t) => {
  const { body, total, next } = await get()
  t.same(namesOf(body), [...names, 'busy'].sort())
  t.equal(total, String(names.length + 1))
  t.equal(next, null)
  const flags = (channel: string) => {
    const { durable, presence, raw } = body.find((one) => one.channel === channel)!
    return { durable, presence, raw }
  }
  t.same(flags('kept:a'), { durable: true, presence: false, raw: false })
  t.same(flags('here'), { durable: false, presence: true, raw: false })
  t.same(flags('raw'), { durable: false, presence: false, raw: true })
  t.same(
    await fastify.pgws.listChannels({ channel: 'busy' }),
    body.filter(({ channel }) => channel === 'busy')
  )
})

t.test('filters by a part of the name, and by the whole name', async (t) => {
  t.same(
    namesOf((await get({ search: 'any:1' })).body),
    names.filter((name) => name.startsWith('many:1'))
  )
  t.same(namesOf((await get({ search: '<img' })).body), [EVIL])
  t.same(namesOf((await get({ channel: EVIL })).body), [EVIL])
  t.same((await get({ channel: 'many:' })).body, [])
})

t.test('pages contain each channel once, also for all nodes and ordered by readers', async (t) => {
  for (const scope of ['local', 'cluster']) {
    const byName = await pages({ scope, limit: '7' })
    t.same(namesOf(byName.flat()), [...names, 'busy'].sort())
    t.ok(byName.slice(0, -1).every((page) => page.length === 7))
    const byReaders = (await pages({ scope, sort: 'readers', limit: '4' })).flat()
    t.equal(byReaders.length, names.length + 1)
    t.equal(new Set(namesOf(byReaders)).size, byReaders.length)
    if (scope === 'cluster')
      t.match(byReaders[0], { channel: 'busy', connections: 4, readers: 4, writers: 4 })
  }
})

t.test('rates cover the last seconds, and all nodes', async (t) => {
  const timer = setInterval(() => writer.send('tick'), 10)
  t.teardown(() => clearInterval(timer))
  for (const scope of ['local', 'cluster']) {
    await until(async () => {
      const { body } = await get({ scope, sort: 'rate', limit: '1' })
      return body[0]!.channel === 'busy' && body[0]!.rate! > 0
    })
  }
  // Three of four readers are on the other node, which began to measure at the first request.
  await until(async () => {
    const local = (await get({ channel: 'busy' })).body[0]!.rate!
    return (await get({ channel: 'busy', scope: 'cluster' })).body[0]!.rate! > 2 * local
  })
  t.equal((await get({ channel: 'here' })).body[0]!.rate, 0)
})

t.test('rejects invalid parameters, and says what was expected', async (t) => {
  for (const [query, message] of [
    [{ sort: 'size' }, /"sort" must be one of "channel", "readers", "rate"/],
    [{ limit: '0' }, /"limit" must be a whole number from 1 to 1000/],
    [{ limit: 'x' }, /"limit" must be/],
    [{ after: 'nonsense' }, /"after" must be the header x-pgws-next/],
    [{ serach: 'x' }, /"serach" is unknown here/]
  ] as [Record<string, string>, RegExp][]) {
    t.match(await get(query), { status: 400, body: { message } })
  }
  const twice = await fetch(`${http}/channels?search=a&search=b`, {
    headers: { authorization: `Bearer ${token({ admin: true })}` }
  })
  t.equal(twice.status, 400)
  t.match(await twice.json(), { message: /"search" must be given once/ })
})

t.test('lists 100,000 channels in pages, and handles other requests in between', async (t) => {
  const many = Array.from({ length: 100_000 }, (_, n) => ({
    channel: `room:${(n * 7919) % 100_000}`,
    connections: 1,
    readers: n % 100,
    writers: 0,
    rate: null
  }))
  let turns = 0
  let ended = false
  const count = () => {
    turns++
    if (!ended) setImmediate(count)
  }
  setImmediate(count)
  const flags = () => ({ durable: false, presence: false, raw: false })
  let found: { total: number; next: string | undefined } | undefined
  const page = await listChannels(many, { limit: 50, sort: 'readers', onPage: (of) => (found = of) }, flags)
  ended = true
  t.equal(page.length, 50)
  t.ok(page.every(({ readers }) => readers === 99))
  t.same(namesOf(page as ListedChannel[]), namesOf(page as ListedChannel[]).sort())
  t.equal(found!.total, 100_000)
  t.ok(turns >= 40)
  const second = await listChannels(many, { limit: 50, sort: 'readers', after: found!.next }, flags)
  t.ok(second[0]!.channel > page.at(-1)!.channel)
})
