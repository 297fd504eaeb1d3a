import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { COMPLETE, prepare } from '../check/channels.js'
import { check, type Rule } from '../check/checker.js'
import { History, type Reader } from '../check/history.js'
import { Random } from '../check/random.js'
import { record } from '../check/record.js'
import { build, query, withPostgres } from '../support/helper.js'

const { migrated } = await withPostgres(t)

/** Records for a while what two nodes do. */
async function recorded(t: Test, dbUri: string): Promise<History> {
  const nodes = [await build(t, { dbUri }), await build(t, { dbUri })]
  const target = {
    dbUri,
    node: (random: Random) => random.one(nodes),
    query: (text: string, values?: unknown[]) => query(dbUri, text, values)
  }
  const history = new History()
  await record(
    t,
    target,
    new Random(1),
    history,
    async (readers) => {
      while (history.transactions.length < 200) {
        await sleep(100)
        readers.break()
      }
    },
    { pause: 20, patience: 5000 }
  )
  return history
}

const rulesOf = (history: History) => new Set(check(history).map(({ rule }) => rule))

/** The real thing, which the cases below change. */
let sound: History

t.test('a history without faults has no violations', async (t) => {
  const dbUri = await migrated()
  await prepare(dbUri)
  sound = await recorded(t, dbUri)
  t.same(check(sound), [])
  for (const { name, complete, deliveries } of sound.readers) t.ok(!complete || deliveries.length > 0, name)
  t.ok(ephemeral(sound).deliveries.length > 0)
})

const reader = (history: History, name: string) => history.readers.find((one) => one.name === name)!

/** The connection of a reader of channels that nobody keeps that has got most. */
const ephemeral = ({ readers }: History) =>
  readers.filter(({ complete }) => !complete).sort((a, b) => b.deliveries.length - a.deliveries.length)[0]!

/** Where a transaction with two messages or more is in what a reader has got. */
function groupIn({ deliveries }: Reader): { start: number; end: number } {
  const transactionOf = (index: number) => deliveries[index]?.message.split('.')[0]
  for (let start = Math.floor(deliveries.length / 3); ; start++) {
    if (transactionOf(start) === transactionOf(start - 1)) continue
    let end = start + 1
    while (transactionOf(end) === transactionOf(start)) end++
    if (end - start >= 2) return { start, end }
  }
}

/** Each is done to a copy of the history, and must be found as what it is. */
const planted: [string, Rule, (history: History) => void][] = [
  [
    'a round that one reader has not got',
    'lost',
    (history) => {
      const { deliveries } = reader(history, 'socket-0')
      const { start } = groupIn(reader(history, 'socket-0'))
      deliveries.splice(start, 5)
    }
  ],
  [
    'a round that nobody has got',
    'lost',
    (history) => {
      const { deliveries } = reader(history, 'socket-0')
      const lost = new Set(deliveries.slice(20, 25).map(({ message }) => message))
      for (const one of history.readers) {
        one.deliveries = one.deliveries.filter(({ message }) => !lost.has(message))
      }
    }
  ],
  [
    'a part of a transaction whose outcome is not known',
    'lost',
    (history) => {
      const { deliveries } = reader(history, 'socket-0')
      const { start } = groupIn(reader(history, 'socket-0'))
      const [lost] = deliveries.splice(start, 1)
      const transaction = history.transactions.find(({ messages }) =>
        messages.some(({ id }) => id === lost!.message)
      )!
      transaction.outcome = 'unknown'
    }
  ],
  [
    'a round that is sent twice',
    'duplicate',
    (history) => {
      for (const { deliveries } of history.readers) deliveries.splice(10, 0, ...deliveries.slice(5, 10))
    }
  ],
  [
    'a message that comes twice to one reader of a channel that nobody keeps',
    'duplicate',
    (history) => {
      const { deliveries } = ephemeral(history)
      deliveries.push(deliveries[0]!)
    }
  ],
  [
    'a message that nobody has published',
    'phantom',
    (history) => {
      const { deliveries } = reader(history, 'event-stream')
      deliveries.push({ message: 't0.0', channel: COMPLETE[0]!, at: 0 })
    }
  ],
  [
    'a message of a transaction that was rolled back',
    'phantom',
    (history) => {
      const { messages } = history.transactions.find(({ outcome }) => outcome === 'rolled back')!
      for (const { deliveries } of history.readers) {
        deliveries.push({ message: messages[0]!.id, channel: messages[0]!.channel, at: 0 })
      }
    }
  ],
  [
    'a message behind a savepoint that was rolled back',
    'phantom',
    (history) => {
      const undone = history.transactions.flatMap(({ messages }) => messages).find((sent) => sent.undone)!
      reader(history, 'socket-1').deliveries.push({ message: undone.id, channel: undone.channel, at: 0 })
    }
  ],
  [
    'a message that comes on a channel of others',
    'misdirected',
    (history) => {
      const [first] = reader(history, 'socket-0').deliveries
      first!.channel = 'another'
    }
  ],
  [
    'a gap in a channel that is kept',
    'gap',
    (history) => {
      reader(history, 'socket-0').gaps.push(0)
    }
  ],
  [
    'two rounds that are swapped for one reader',
    'one order',
    (history) => {
      const { deliveries } = reader(history, 'socket-1')
      const middle = Math.floor(deliveries.length / 2)
      deliveries.splice(0, deliveries.length, ...deliveries.slice(middle), ...deliveries.slice(0, middle))
    }
  ],
  [
    'two rounds that are swapped for all readers',
    'commit order',
    (history) => {
      for (const one of history.readers) {
        const middle = Math.floor(one.deliveries.length / 2)
        one.deliveries = [...one.deliveries.slice(middle), ...one.deliveries.slice(0, middle)]
      }
    }
  ],
  [
    'two versions of a row that are swapped',
    'row order',
    (history) => {
      const { deliveries } = reader(history, 'sdk-table:0')
      const [first, second] = deliveries
      deliveries.splice(0, 2, second!, first!)
    }
  ],
  [
    'a transaction whose messages come in another order',
    'transaction',
    (history) => {
      const { deliveries } = reader(history, 'socket-0')
      const { start, end } = groupIn(reader(history, 'socket-0'))
      deliveries.splice(start, end - start, ...deliveries.slice(start, end).reverse())
    }
  ],
  [
    'a transaction with messages of another one between its own',
    'transaction',
    (history) => {
      const { deliveries } = reader(history, 'socket-0')
      const { end } = groupIn(reader(history, 'socket-0'))
      const [next] = deliveries.splice(end, 1)
      deliveries.splice(end - 1, 0, next!)
    }
  ],
  [
    'a position that differs from that of another reader',
    'position',
    (history) => {
      const { deliveries } = reader(history, 'event-stream')
      deliveries.at(-1)!.position += '0'
    }
  ]
]

for (const [title, rule, plant] of planted) {
  t.test(`finds ${title}`, async (t) => {
    const history = sound.copy()
    plant(history)
    t.ok(rulesOf(history).has(rule), [...rulesOf(history)].join(', '))
  })
}

t.test('while some servers have no bus, only what nobody retains may come in another order', async (t) => {
  const swap = ({ deliveries }: Reader) => {
    const middle = Math.floor(deliveries.length / 2)
    deliveries.splice(0, deliveries.length, ...deliveries.slice(middle), ...deliveries.slice(0, middle))
  }
  const history = sound.copy()
  swap(ephemeral(history))
  t.not(check(history).length, 0)
  history.mixed.push({ from: 0, to: Number.MAX_VALUE })
  t.same(check(history), [])
  ephemeral(history).deliveries.push(ephemeral(history).deliveries[0]!)
  t.same([...rulesOf(history)], ['duplicate'])
  swap(reader(history, 'socket-0'))
  t.ok(rulesOf(history).has('one order'))
})

const ROUND = 'pgws.round(timestamptz)'
const ANNOUNCE = 'pgws.announce(pg_snapshot, pg_snapshot, bigint, bigint, timestamptz)'
const CALL =
  'announced := pgws.announce(last.snapshot, upto, coalesce(last.announced_to, 0), cut, round.since);'
/** Rounds of more than one transaction. */
const LONG_ROUNDS = [ROUND, 'lock table', 'perform pg_sleep(0.1); lock table'] as const

/** Faults of the sequencer itself: its functions, a text in them, and what it is replaced with. */
const faults: [string, Rule[], ...(readonly [string, string, string])[]][] = [
  [
    'loses every tenth round',
    ['lost'],
    [ROUND, CALL, `if last.number % 10 = 3 then announced := 1; else ${CALL} end if;`]
  ],
  [
    'sends every tenth round twice',
    ['duplicate'],
    [ROUND, CALL, `if last.number % 10 = 3 then ${CALL} end if; ${CALL}`]
  ],
  [
    'turns the order of a round around',
    ['transaction', 'row order'],
    LONG_ROUNDS,
    [
      ANNOUNCE,
      'from numbered order by last_ordinal, ordinal',
      'from numbered order by last_ordinal desc, ordinal desc'
    ]
  ],
  [
    'takes the order in which transactions began',
    ['row order'],
    LONG_ROUNDS,
    [ANNOUNCE, 'from numbered order by last_ordinal,', 'from numbered order by transaction::text::bigint,'],
    [ANNOUNCE, 'select v.last_ordinal, v.ordinal,', 'select v.last_ordinal, v.transaction, v.ordinal,']
  ],
  [
    'announces what was not published',
    ['phantom'],
    [
      ROUND,
      CALL,
      `if last.number = 20 then
         insert into pgws.outbox_0 (channel, body) select 'kept:0', pgws.envelope('kept:0', '"t0.0"', null);
       end if;
       ${CALL}`
    ]
  ]
]

/** How often a faulty sequencer is recorded at most. Whether a fault shows is up to chance: which transactions meet in a round. */
const ATTEMPTS = 20

for (const [title, rules, ...replacements] of faults) {
  t.test(`finds that a sequencer ${title}`, async (t) => {
    const found = new Set<Rule>()
    for (let attempt = 1; attempt <= ATTEMPTS && !rules.every((rule) => found.has(rule)); attempt++) {
      const dbUri = await migrated()
      await prepare(dbUri)
      for (const [name, text, replacement] of replacements) {
        const { rows } = await query(dbUri, 'select pg_get_functiondef($1::regprocedure) as source', [name])
        const source: string = rows[0]!.source
        t.equal(source.split(text).length, 2, text)
        await query(dbUri, source.replace(text, replacement))
      }
      for (const rule of rulesOf(await recorded(t, dbUri))) found.add(rule)
    }
    for (const rule of rules) t.ok(found.has(rule), `${rule}: ${[...found].join(', ')}`)
  })
}
