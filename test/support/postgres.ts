import { randomUUID } from 'node:crypto'
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statfsSync,
  statSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import type { Test } from 'tap'
import { runAs } from '../../lib/embedded-postgres/binaries.js'
import { findPlaces, prepareCluster, prepareHome } from '../../lib/embedded-postgres/places.js'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../lib/embedded-postgres/server.js'
import { codeOf } from '../../lib/errors.js'
import { migrate } from '../../lib/schema/migrate.js'

export const LISTEN_CHANNEL = 'postgres-websockets-listener'

const FAST = {
  fsync: 'off',
  synchronous_commit: 'off',
  full_page_writes: 'off',
  autovacuum: 'off',
  max_connections: '200'
}

/** A PostgreSQL server in which databases can be created. */
export type Cluster = Pick<EmbeddedPostgres, 'uri' | 'socketFolder'>

/** The options with which a PostgreSQL was started, by its data folder. */
const starts = new Map<string, { folder: string; settings: Record<string, string>; binaries?: string }>()

/** The databases that were created for a test on a PostgreSQL that outlives the test. */
const databases = new Map<Cluster, string[]>()

/**
 * Starts a PostgreSQL that ends with this process, if it is not stopped earlier.
 * @param prepare may put data into its folder before it starts
 */
export async function startPostgres(
  settings: Record<string, string> = {},
  prepare: (folder: string) => void = copyInitialized
) {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-test-'))
  prepare(folder)
  // .ci/matrix.js sets it to run the tests with another version.
  const { PGWS_TEST_POSTGRES: binaries } = process.env
  const start = { folder, settings: { ...FAST, ...settings }, ...(binaries !== undefined && { binaries }) }
  const postgres = await startEmbeddedPostgres(start)
  starts.set(postgres.dataFolder, start)
  async function stop() {
    await postgres.stop()
    remove(postgres)
  }
  return { postgres, stop }
}

/**
 * Lets the PostgreSQLs of this process, and of those that it starts, begin with copies of one data folder, which takes a
 * tenth of the time of initdb.
 * @returns a function that removes it
 */
export async function initializeOnce(): Promise<() => void> {
  const { postgres } = await startPostgres()
  await postgres.stop()
  process.env.PGWS_TEST_DATA = postgres.dataFolder
  return () => remove(postgres)
}

function copyInitialized(folder: string): void {
  const { PGWS_TEST_DATA: initialized } = process.env
  if (initialized !== undefined) copyData(initialized, folder)
}

/**
 * Copies the data of a PostgreSQL that has stopped to where another one, in `folder`, will look for its own.
 * @returns where that is
 */
export function copyData(from: string, folder: string): string {
  const places = findPlaces(folder)
  prepareHome(places)
  prepareCluster(places)
  const { status, stderr } = runAs(places, '/bin/cp', ['-a', from, places.data])
  if (status !== 0) throw new Error(`the data could not be copied: ${stderr}`)
  return places.data
}

function remove(postgres: EmbeddedPostgres): void {
  // For root, the data is in another folder.
  for (const path of [folderOf(postgres), postgres.home, postgres.socketFolder]) {
    rmSync(path, { recursive: true, force: true })
  }
}

/** Starts a PostgreSQL for one test file that stops it, or needs its own settings. It is removed after the test. */
export async function testPostgres(
  t: Pick<Test, 'teardown'>,
  ...options: Parameters<typeof startPostgres>
): Promise<EmbeddedPostgres> {
  const { postgres, stop } = await startPostgres(...options)
  t.teardown(stop)
  return postgres
}

/**
 * The PostgreSQL that test/run.ts starts for all test files. A file that runs by itself starts its own. Roles are shared
 * with the other files, so their names must be unique. The databases are dropped after the test.
 */
export async function sharedPostgres(t: Test): Promise<Cluster> {
  const { PGWS_TEST_URI: uri } = process.env
  if (uri === undefined) return testPostgres(t)
  const cluster = { uri, socketFolder: new URL(uri.replace('@/', '@localhost/')).searchParams.get('host')! }
  const names: string[] = []
  databases.set(cluster, names)
  t.teardown(() =>
    administrate(uri, async (client) => {
      for (const name of names) await client.query(`drop database ${name} with (force)`)
    })
  )
  return cluster
}

/** The folder with which a PostgreSQL was started. */
export function folderOf({ dataFolder }: EmbeddedPostgres): string {
  return starts.get(dataFolder)!.folder
}

/** Stops a PostgreSQL if it still runs, and starts it again with the same data. */
export async function restartPostgres(t: Test, ended: EmbeddedPostgres): Promise<EmbeddedPostgres> {
  await ended.stop()
  const postgres = await startEmbeddedPostgres(starts.get(ended.dataFolder)!)
  t.teardown(() => postgres.stop())
  return postgres
}

/** Creates an empty database. Returns its connection string. */
export async function createDatabase(cluster: Cluster, encoding = 'UTF8'): Promise<string> {
  const options = `template template0 encoding '${encoding}' lc_collate 'C' lc_ctype 'C'`
  return administrate(cluster.uri, (client) => create(client, cluster, newName(), options))
}

/** Creates a database with the schema `pgws`. It copies a template, because that is faster than migrating. */
export async function migratedDatabase(cluster: Cluster): Promise<string> {
  await prepareTemplate(cluster)
  return administrate(cluster.uri, (client) => create(client, cluster, newName(), `template ${TEMPLATE}`))
}

/** Creates the template of `migratedDatabase` if it does not exist. */
export function prepareTemplate(cluster: Cluster): Promise<void> {
  const preparing = templates.get(cluster) ?? makeTemplate(cluster)
  templates.set(cluster, preparing)
  return preparing
}

async function makeTemplate(cluster: Cluster): Promise<void> {
  await administrate(cluster.uri, async (client) => {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [TEMPLATE])
    if (rowCount === 1) return
    const uri = await create(client, cluster, TEMPLATE, 'template template0')
    await administrate(uri, (owner) => migrate(owner, LISTEN_CHANNEL))
  })
}

const templates = new WeakMap<Cluster, Promise<void>>()
const TEMPLATE = 'pgws_template'
const newName = () => `test_${randomUUID().replaceAll('-', '')}`

const MEMORY = 'memory'
const MEMORY_FOLDER = '/dev/shm'
/** The free memory that the databases of concurrent tests need, in bytes. */
const MEMORY_NEEDED = 2 ** 31

/**
 * Places new databases in memory if the system has a folder for this. Creating a database copies 300 files, which takes
 * twenty times as long on disk.
 * @returns a function that removes the folder; to be called after PostgreSQL has ended
 */
export async function keepInMemory({ uri, dataFolder }: EmbeddedPostgres): Promise<() => void> {
  if (!existsSync(MEMORY_FOLDER)) return () => {}
  removeLeftovers()
  const { bavail, bsize } = statfsSync(MEMORY_FOLDER)
  if (bavail * bsize < MEMORY_NEEDED) return () => {}
  const folder = join(MEMORY_FOLDER, `pgws-test-${process.pid}`)
  mkdirSync(folder, { mode: 0o700 })
  const { uid, gid } = statSync(dataFolder)
  chownSync(folder, uid, gid)
  await administrate(uri, (client) => client.query(`create tablespace ${MEMORY} location '${folder}'`))
  return () => rmSync(folder, { recursive: true, force: true })
}

/** Removes the folders of test runs that were killed. */
function removeLeftovers(): void {
  for (const name of readdirSync(MEMORY_FOLDER)) {
    const [, pid] = /^pgws-test-(\d+)$/.exec(name) ?? []
    if (pid === undefined) continue
    try {
      process.kill(Number(pid), 0)
    } catch (error) {
      // EPERM means that another user's process runs.
      if (codeOf(error) !== 'ESRCH') continue
      rmSync(join(MEMORY_FOLDER, name), { recursive: true, force: true })
    }
  }
}

/** The major version of a PostgreSQL: 13, 14, … */
export function majorVersion({ uri }: Cluster): Promise<number> {
  return administrate(uri, majorOf)
}

async function majorOf(client: pg.Client): Promise<number> {
  const { rows } = await client.query("select current_setting('server_version_num')::int / 10000 as major")
  return rows[0].major
}

async function create(client: pg.Client, cluster: Cluster, name: string, options: string): Promise<string> {
  const { rows } = await client.query('select from pg_tablespace where spcname = $1', [MEMORY])
  const tablespace = rows.length === 0 ? '' : `tablespace ${MEMORY}`
  // From PostgreSQL 15 on, the default is to log each page, which takes ten times as long as copying files.
  const strategy = (await majorOf(client)) < 15 ? '' : 'strategy file_copy'
  await client.query(`create database ${name} ${options} ${tablespace} ${strategy}`)
  databases.get(cluster)?.push(name)
  return cluster.uri.replace('/postgres?', `/${name}?`)
}

async function administrate<Result>(
  uri: string,
  action: (client: pg.Client) => Promise<Result>
): Promise<Result> {
  const client = new pg.Client(uri)
  await client.connect()
  try {
    return await action(client)
  } finally {
    await client.end()
  }
}
