import t, { type Test } from 'tap'
import { run, started } from '../support/app.js'
import { build, type Client, open, query, SECRET, token, until, withPostgres } from '../support/helper.js'
import { previousRelease, RELEASES } from '../support/previous-release.js'

const { database } = await withPostgres(t)
const rw = token({ mode: 'rw' })

const payloadsOf = ({ messages }: Client) => messages.map((text) => JSON.parse(text).payload as string)

/**
 * Lists the connections, channels and nodes of an older and a newer node, on each of them.
 * @param same whether both know the same of it
 */
async function listEachOther(t: Test, older: string, newer: string, same: boolean): Promise<void> {
  const admin = { headers: { authorization: `Bearer ${token({ admin: true })}` } }
  const get = async (http: string, path: string) => {
    const response = await fetch(http + path, admin)
    // biome-ignore lint/suspicious/noExplicitAny: what an answer has is what the test is about.
    return { body: (await response.json()) as any, headers: response.headers, status: response.status }
  }
  for (const http of [older, newer]) await until(async () => (await get(http, '/nodes')).body.length === 2)
  const { body: nodes } = await get(newer, '/nodes')
  const olderNode = nodes.find(({ self }: { self: boolean }) => !self)
  if (!same) t.equal(olderNode.stats ?? null, null)
  const { body: all } = await get(newer, '/connections?scope=cluster')
  t.ok(all.some(({ node }: { node: string }) => node === olderNode.id))
  t.equal((await get(older, '/connections?scope=cluster')).body.length, all.length)
  const paged: string[] = []
  for (let after: string | null = ''; after !== null; ) {
    const query: string = after === '' ? '' : `&after=${after}`
    const { body, headers } = await get(newer, `/connections?scope=cluster&limit=3${query}`)
    t.equal(headers.get('x-pgws-total'), String(all.length))
    paged.push(...body.map(({ id }: { id: string }) => id))
    after = headers.get('x-pgws-next')
  }
  t.same(paged.sort(), all.map(({ id }: { id: string }) => id).sort())
  const others = (list: { node: string }[]) => list.filter(({ node }) => node === olderNode.id)
  const { body: sockets, headers } = await get(newer, '/connections?scope=cluster&transport=websocket')
  if (same) t.equal(others(sockets).length, others(all).length)
  else {
    // The older node does not know what a transport is, and would close too many.
    t.equal(headers.get('x-pgws-missing-nodes'), olderNode.id)
    t.same(others(sockets), [])
  }
  t.ok((await get(newer, '/channels?scope=cluster&sort=readers&limit=5')).body.length > 0)
  t.equal((await get(older, '/channels?scope=cluster')).status, 200)
}

for (const commit of RELEASES)
  t.test(
    `${commit.slice(0, 7)} and this version work side by side during the migration, and lose nothing`,
    async (t) => {
      const cli = await previousRelease(t, commit)
      if (cli === undefined) {
        t.pass('not tested', {
          skip: 'the history of this clone does not have the previous release: git fetch --unshallow'
        })
        return
      }
      const dbUri = await database()
      const environment = {
        PGWS_DB_URI: dbUri,
        PGWS_JWT_SECRET: SECRET,
        PGWS_HOST: '127.0.0.1',
        PGWS_MIGRATE: 'true'
      }
      const before = await started(await run(t, environment, [], cli))
      await until(async () => (await fetch(`${before.http}/health`)).ok)
      await query(
        dbUri,
        `select pgws.retain('kept', '1 hour'); create table public.watched (n text);
     select pgws.watch('public.watched', 'kept'), pgws.watch('public.watched', 'plain')`
      )

      const sent: { kept: string[]; plain: string[] } = { kept: [], plain: [] }
      const traffic = (name: string, send: (channel: 'kept' | 'plain', text: string) => Promise<unknown>) => {
        let going = true
        let rounds = 0
        const done = (async () => {
          for (let n = 0; going; n++) {
            for (const channel of ['kept', 'plain'] as const) {
              const text = `${name} ${n} ${n % 5 === 0 ? 'x'.repeat(9000) : ''}`
              await send(channel, text)
              sent[channel].push(text)
            }
            rounds++
          }
        })()
        return {
          /** Waits until it has sent some more. */
          some: async () => {
            const wanted = rounds + 10
            await until(() => rounds >= wanted, 60_000)
          },
          stop: async () => {
            going = false
            await done
          }
        }
      }
      const byHttp = (http: string) => async (channel: string, payload: string) => {
        const answer = await fetch(`${http}/publish`, {
          method: 'POST',
          headers: { authorization: `Bearer ${rw}`, 'content-type': 'application/json' },
          body: JSON.stringify({ channel, payload })
        })
        if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`)
      }
      const bySql = (channel: string, payload: string) =>
        query(dbUri, 'select pgws.publish_text($1, $2)', [channel, payload])
      const bySocket = async (ws: string) => {
        const sockets = { kept: await open(t, `${ws}/kept/${rw}`), plain: await open(t, `${ws}/plain/${rw}`) }
        // A sender that reads its own message knows that it was published.
        return async (channel: 'kept' | 'plain', payload: string) => {
          const { webSocket, messages } = sockets[channel]
          const known = messages.length
          webSocket.send(payload)
          await until(
            () => messages.slice(known).some((text) => JSON.parse(text).payload === payload),
            60_000
          )
        }
      }

      const readers = [await open(t, `${before.ws}/kept/${rw}`), await open(t, `${before.ws}/plain/${rw}`)]
      const flows = [
        traffic('old http', byHttp(before.http)),
        traffic('old socket', await bySocket(before.ws)),
        traffic('sql', bySql)
      ]
      await Promise.all(flows.map((flow) => flow.some()))
      const after = await started(await run(t, environment))
      await until(async () => (await fetch(`${after.http}/health`)).ok)
      readers.push(await open(t, `${after.ws}/kept/${rw}?since=earliest`))
      await listEachOther(t, before.http, after.http, commit === RELEASES.at(-1))
      flows.push(traffic('new http', byHttp(after.http)), traffic('new socket', await bySocket(after.ws)))
      await Promise.all(flows.map((flow) => flow.some()))
      await Promise.all(flows.map((flow) => flow.stop()))

      await query(dbUri, `insert into public.watched values ('from a table')`)
      const ended = () =>
        readers.every((reader) => payloadsOf(reader).some((payload) => typeof payload === 'object'))
      await until(ended, 60_000)
      const [oldKept, oldPlain, newKept] = readers.map((reader) =>
        payloadsOf(reader).filter((payload) => typeof payload === 'string')
      ) as [string[], string[], string[]]
      t.same([...oldKept].sort(), [...sent.kept].sort())
      t.same([...oldPlain].sort(), [...sent.plain].sort())
      t.same(newKept, oldKept, 'in the same order for all')

      const { rows } = await query(dbUri, 'select version from pgws.settings')
      t.same(rows, [{ version: 2 }])
      // Both still serve their clients, and neither has logged a warning.
      for (const { http, output } of [before, after]) {
        t.match(await (await fetch(`${http}/health`)).json(), { status: 'ok' })
        const complaints = output()
          .split('\n')
          // On a busy machine the start takes longer than the second after which it says what it waits for.
          .filter(
            (line) =>
              /"level":(?:40|50|60)/.test(line) && !/start waits for|startup is waiting for/.test(line)
          )
        t.same(complaints, [])
      }
    }
  )

t.test(
  'a server that is too old for the schema logs it, closes its clients with 1012, and ends',
  async (t) => {
    const dbUri = await database()
    // Even few clients are not closed all at once, but one every 3 s.
    const { fastify, ws, http, lines } = await build(t, { dbUri, migrate: true, shutdownTimeout: 30_000 })
    await query(dbUri, `select pgws.retain('kept', '1 hour')`)
    const clients = await Promise.all(Array.from({ length: 3 }, () => open(t, `${ws}/kept/${rw}`)))
    const events: string[] = []
    const closed = clients.map(async (client) => {
      const { code, reason } = await client.closed()
      t.same({ code, reason }, { code: 1012, reason: 'server too old for its database' })
      events.push('closed')
    })
    const lost = new Promise<Error>((resolve) =>
      fastify.pgws.once('lost', (error) => {
        events.push('lost')
        resolve(error)
      })
    )
    const health: number[] = []
    const asked = closed[0]!.then(async () => {
      const answer = await fetch(`${http}/health`)
      health.push(answer.status, (await fetch(`${http}/health/ready`)).status)
      t.match(await answer.json(), { status: 'unavailable', schema: { status: 'too new' } })
      t.equal(await query(dbUri, 'select 1').then(({ rowCount }) => rowCount), 1)
      await t.rejects(open(t, `${ws}/kept/${rw}`), { message: /503/ })
      t.ok(events.filter((event) => event === 'closed').length < clients.length, 'others are still connected')
    })
    await query(
      dbUri,
      `insert into pgws.migrations select max(number) + 1, 'not additive', now(), max(number) + 1 from pgws.migrations;
     update pgws.settings set version = (select max(number) from pgws.migrations);
     select pg_notify('pgws', 'installed')`
    )
    await asked
    t.same(health, [503, 503])
    t.match(await lost, { code: 'FST_PGWS_SCHEMA_TOO_NEW' })
    await Promise.all(closed)
    t.same(events, [...clients.map(() => 'closed'), 'lost'])
    t.ok(
      lines.some((line) =>
        /^closing: The schema "pgws" .*upgrade fastify-pg-websockets/.test(JSON.parse(line).msg)
      )
    )
    await until(() => !fastify.server.listening)
  }
)

t.test('the server also ends if a new connection finds that the schema is too new', async (t) => {
  const dbUri = await database()
  const app = await started(
    await run(t, {
      PGWS_DB_URI: dbUri,
      PGWS_JWT_SECRET: SECRET,
      PGWS_HOST: '127.0.0.1',
      PGWS_MIGRATE: 'true',
      PGWS_CHECK_LISTENER_INTERVAL: '500'
    })
  )
  await until(async () => (await fetch(`${app.http}/health`)).ok)
  const client = await open(t, `${app.ws}/a/${rw}`)
  await query(dbUri, 'update pgws.settings set version = 99')
  const ended = client.closed()
  await query(
    dbUri,
    `select pg_terminate_backend(pid) from pg_stat_activity
     where application_name = 'fastify-pg-websockets listener' and datname = current_database()`
  )
  t.equal((await ended).code, 1012)
  t.equal(await app.exit, 1)
  t.match(app.output(), /schema \\"pgws\\" of the database has version 99/)
})

t.test('a server that is newer than the schema publishes nothing until it is migrated', async (t) => {
  const dbUri = await database()
  const { fastify: installer } = await build(t, { dbUri, migrate: true })
  await installer.close()
  // As the previous release left it.
  await query(dbUri, `delete from pgws.migrations where number > 2`)
  await query(dbUri, `insert into pgws.migrations values (2, 'handlers', default, 2) on conflict do nothing`)
  await query(dbUri, `select pgws.retain('kept', '1 hour')`)
  const { fastify, http, ws, lines } = await build(t, { dbUri, checkListenerInterval: 1000, readyTimeout: 0 })
  await until(() =>
    lines.some((line) => /startup is waiting for .*run \\"npx fastify-pg-websockets migrate\\"/.test(line))
  )
  t.match(await (await fetch(`${http}/health`)).json(), {
    status: 'unavailable',
    schema: { status: 'too old' }
  })
  await t.rejects(fastify.pgws.publish('kept', 'too early'), { code: 'FST_PGWS_DATABASE_UNAVAILABLE' })
  await query(
    dbUri,
    `insert into pgws.migrations select n, 'mended', now(), 2 from generate_series(3, 99) n; select pg_notify('pgws', 'installed')`
  )
  await until(async () => (await fetch(`${http}/health`)).ok)
  const client = await open(t, `${ws}/kept/${rw}`)
  await fastify.pgws.publish('kept', 'now')
  t.same(JSON.parse((await client.received(1))[0]!).payload, 'now')
})

t.test(
  'members of presence channels are known to nodes of the previous release and of this version',
  async (t) => {
    const cli = await previousRelease(t, RELEASES.at(-1)!)
    if (cli === undefined) {
      t.pass('not tested', {
        skip: 'the history of this clone does not have the previous release: git fetch --unshallow'
      })
      return
    }
    const environment = {
      PGWS_DB_URI: await database(),
      PGWS_JWT_SECRET: SECRET,
      PGWS_HOST: '127.0.0.1',
      PGWS_PRESENCE_CHANNELS: 'room:*',
      PGWS_NODE_TIMEOUT: '2000'
    }
    const older = await started(await run(t, environment, [], cli))
    await until(async () => (await fetch(`${older.http}/health`)).ok)
    const as = (sub: string) => token({ mode: 'r', sub })
    const usersOn = async (http: string, channel: string) => {
      const headers = { authorization: `Bearer ${as('reader')}` }
      const answer = await fetch(`${http}/channels/${channel}/presence`, { headers })
      const { clients = [] } = (await answer.json()) as { clients?: { user: string }[] }
      return clients.map(({ user }) => user).sort()
    }
    const agree = (channel: string, ...users: string[]) =>
      until(async () => {
        const all = await Promise.all(nodes.map(({ http }) => usersOn(http, channel)))
        return all.every((one) => one.join() === users.join())
      }, 60_000)
    /** Who is there, after what a client has received. */
    const keep = ({ messages }: Client) => {
      const there = new Map<string, string>()
      for (const text of messages) {
        const { event, payload } = JSON.parse(text)
        if (event === 'Presence') for (const { client, user } of payload.clients) there.set(client, user)
        else if (event === 'Join') there.set(payload.client, payload.user)
        else there.delete(payload.client)
      }
      return [...there.values()].sort().join()
    }
    const nodes = [older]
    const watching = [await open(t, `${older.ws}/room:1/${as('old')}?presence=true`)]
    await open(t, `${older.ws}/room:2/${as('alone')}`)
    for (const name of ['new', 'newer']) {
      const node = await started(await run(t, environment))
      nodes.push(node)
      watching.push(await open(t, `${node.ws}/room:1/${as(name)}?presence=true`))
    }
    await agree('room:1', 'new', 'newer', 'old')
    // No client of the newer nodes is in it.
    await agree('room:2', 'alone')
    const leaving = await Promise.all(nodes.map(({ ws }, i) => open(t, `${ws}/room:1/${as(`leaves ${i}`)}`)))
    const all = ['leaves 0', 'leaves 1', 'leaves 2', 'new', 'newer', 'old']
    await until(() => watching.every((client) => keep(client) === all.join()), 60_000)
    for (const { webSocket } of leaving) webSocket.close()
    await until(() => watching.every((client) => keep(client) === 'new,newer,old'), 60_000)
    await agree('room:1', 'new', 'newer', 'old')

    // The upgrade ends.
    older.child.kill('SIGTERM')
    nodes.shift()
    await agree('room:1', 'new', 'newer')
    await agree('room:2')
    await until(() => watching.slice(1).every((client) => keep(client) === 'new,newer'), 60_000)
  }
)
