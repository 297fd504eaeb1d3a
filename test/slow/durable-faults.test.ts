import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { type App, run, started } from '../support/app.js'
import { build, open, query, SECRET, token, until } from '../support/helper.js'
import { createDatabase, restartPostgres, sharedPostgres, testPostgres } from '../support/postgres.js'

const reader = token({ mode: 'r' })
const writer = token({ mode: 'w' })
const SERVER = {
  PGWS_JWT_SECRET: SECRET,
  PGWS_HOST: '127.0.0.1',
  PGWS_MIGRATE: 'true',
  PGWS_CHECK_LISTENER_INTERVAL: '300'
}

/** Reads a channel. Reconnects with its last id to any server that answers. */
class Follower {
  readonly got: string[] = []
  readonly ids: string[] = []
  gaps = 0
  over = false
  #webSocket: WebSocket | undefined

  constructor(apps: () => App[]) {
    this.#follow(apps)
  }

  stop(): void {
    this.over = true
    this.#webSocket?.terminate()
  }

  async #follow(apps: () => App[]): Promise<void> {
    for (let visit = 0; !this.over; visit++) {
      const all = apps()
      const app = all[visit % all.length]!
      const webSocket = new WebSocket(`${app.ws}/a/${reader}?since=${this.ids.at(-1) ?? 'earliest'}`)
      this.#webSocket = webSocket
      webSocket.on('message', (data) => {
        const { id, event, payload } = JSON.parse(String(data))
        if (event === 'HistoryGap') this.gaps++
        else {
          this.ids.push(id)
          this.got.push(payload)
        }
      })
      await new Promise((resolve) => webSocket.on('error', () => {}).on('close', resolve))
      await sleep(20)
    }
  }
}

/** Publishes over HTTP until it is stopped, and records what was acknowledged. */
class Sender {
  readonly acknowledged: string[] = []
  over = false
  readonly done: Promise<void>

  constructor(name: string, apps: () => App[]) {
    this.done = this.#send(name, apps)
  }

  async #send(name: string, apps: () => App[]): Promise<void> {
    for (let n = 0; !this.over; n++) {
      const payload = `${name} ${n}`
      // The same key until it is acknowledged, so that it is stored once, however often it is sent.
      for (let attempt = 0; ; attempt++) {
        const all = apps()
        const status = await fetch(`${all[attempt % all.length]!.http}/publish`, {
          method: 'POST',
          headers: {
            authorization: `Bearer ${writer}`,
            'content-type': 'application/json',
            'idempotency-key': payload
          },
          body: JSON.stringify({ channel: 'a', payload })
        }).then(
          (response) => response.status,
          () => 0
        )
        if (status === 202) break
        await sleep(20)
      }
      this.acknowledged.push(payload)
    }
  }
}

/** Waits until each sender has `count` more acknowledged messages. */
async function progress(senders: Sender[], count: number): Promise<void> {
  const goals = senders.map(({ acknowledged }) => acknowledged.length + count)
  await until(() => senders.every(({ acknowledged }, i) => acknowledged.length >= goals[i]!))
}

/** Checks that all acknowledged messages are stored, and that each follower received them once and in order. */
async function account(t: Test, dbUri: string, senders: Sender[], followers: Follower[]) {
  for (const sender of senders) sender.over = true
  await Promise.all(senders.map(({ done }) => done))
  const { rows } = await query(
    dbUri,
    `select id, message::json ->> 'payload' as payload from pgws.history('a', null, 1000000)`
  )
  const stored = rows.map(({ payload }) => payload)
  const acknowledged = senders.flatMap((sender) => sender.acknowledged)
  t.same(new Set(stored), new Set(acknowledged))
  t.equal(stored.length, acknowledged.length)
  for (const follower of followers) {
    await until(() => follower.got.length >= stored.length)
    t.ok(
      JSON.stringify(follower.got) === JSON.stringify(stored),
      `${follower.got.length} of ${stored.length}`
    )
    t.equal(follower.gaps, 0)
    follower.stop()
  }
}

t.test('no acknowledged message is lost when a server is killed', async (t) => {
  const postgres = await sharedPostgres(t)
  const dbUri = await createDatabase(postgres)
  const environment = { ...SERVER, PGWS_DB_URI: dbUri }
  const apps = await Promise.all([1, 2].map(async () => started(await run(t, environment))))
  await query(dbUri, `select pgws.retain('a', '1 hour')`)
  const all = () => apps
  const followers = Array.from({ length: 4 }, () => new Follower(all))
  const senders = ['x', 'y', 'z'].map((name) => new Sender(name, all))
  for (let round = 0; round < 3; round++) {
    await progress(senders, 20)
    apps[round % 2]!.child.kill('SIGKILL')
    // The other server serves all of them.
    await progress(senders, 5)
    apps[round % 2] = await started(await run(t, environment))
  }
  await progress(senders, 20)
  await account(t, dbUri, senders, followers)
})

t.test('no acknowledged message is lost when PostgreSQL is killed, with fsync on', async (t) => {
  let postgres = await testPostgres(t, { fsync: 'on', synchronous_commit: 'on' })
  const dbUri = await createDatabase(postgres)
  const environment = { ...SERVER, PGWS_DB_URI: dbUri }
  const apps = await Promise.all([1, 2].map(async () => started(await run(t, environment))))
  await query(dbUri, `select pgws.retain('a', '1 hour')`)
  const followers = Array.from({ length: 4 }, () => new Follower(() => apps))
  const senders = ['x', 'y', 'z'].map((name) => new Sender(name, () => apps))
  for (let round = 0; round < 2; round++) {
    await progress(senders, 20)
    process.kill(
      Number(readFileSync(join(postgres.dataFolder, 'postmaster.pid'), 'utf8').split('\n')[0]),
      'SIGKILL'
    )
    await sleep(200)
    postgres = await restartPostgres(t, postgres)
  }
  await progress(senders, 20)
  await account(t, dbUri, senders, followers)
})

t.test('a full disk is an error only for publications that need it', async (t) => {
  const postgres = await testPostgres(t)
  const dbUri = await createDatabase(postgres)
  const { ws, fastify } = await build(t, { dbUri, migrate: true })
  await query(dbUri, `select pgws.retain('durable', '1 hour')`)
  const client = await open(t, `${ws}/${token({ mode: 'r', channels: ['durable', 'plain'] })}`)
  await fastify.pgws.publish('durable', 'before')
  await query(
    dbUri,
    `create function full_disk() returns trigger language plpgsql as $$
     begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$;
     create trigger full_disk before insert on pgws.messages for each row execute function full_disk()`
  )
  const unlucky = await open(t, `${ws}/durable/${writer}`)
  const lucky = await open(t, `${ws}/plain/${writer}`)
  unlucky.send('refused')
  lucky.send('delivered')
  t.equal((await unlucky.closed()).code, 1011)
  await t.rejects(fastify.pgws.publish('durable', 'refused'), { code: 'FST_PGWS_NOT_ACCEPTED' })
  await client.received(2)
  await query(dbUri, 'drop trigger full_disk on pgws.messages')
  await fastify.pgws.publish('durable', 'after')
  await client.received(3)
  t.same(
    client.messages.map((text) => JSON.parse(text).payload),
    ['before', 'delivered', 'after']
  )
  t.equal(lucky.webSocket.readyState, 1)
})

t.test('a message whose commit is unknown is sent again, and stored once', async (t) => {
  const { FaultProxy } = await import('../support/fault-proxy.js')
  const postgres = await sharedPostgres(t)
  const dbUri = await createDatabase(postgres)
  const proxy = await FaultProxy.start(t, join(postgres.socketFolder, '.s.PGSQL.5432'))
  const { ws } = await build(t, { dbUri: proxy.uri(dbUri), listenerUri: dbUri, migrate: true })
  await query(dbUri, `select pgws.retain('a', '1 hour')`)
  const client = await open(t, `${ws}/a/${reader}`)
  const sender = await open(t, `${ws}/a/${writer}`)
  const count = 200
  for (let n = 0; n < count; n++) {
    // The answer to every tenth statement is lost.
    if (n % 10 === 5) proxy.cutAfter(0)
    sender.send(String(n))
    await sleep(3)
  }
  await client.received(count)
  t.same(
    client.messages.map((text) => JSON.parse(text).payload),
    Array.from({ length: count }, (_, n) => String(n))
  )
  t.equal(sender.webSocket.readyState, 1)
})
