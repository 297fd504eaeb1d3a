import { createHash } from 'node:crypto'
import { chmodSync, lchownSync, lstatSync, mkdirSync, readFileSync, renameSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { isAlive, readOwner } from './owner.js'

/** Who runs PostgreSQL: a user that is not root. */
export interface User {
  uid: number
  gid: number
}

/** Where everything of one embedded database is. */
export interface Places {
  /**
   * The folder that is ours alone: log, owner file, secret, binaries, and the cluster. As root we trust nothing that
   * PostgreSQL's user could have put somewhere, and follow no link of its own.
   */
  home: string
  /** The folder that is PostgreSQL's: its data is in it. The same where both are one user. */
  cluster: string
  data: string
  log: string
  owner: string
  sockets: string
  uri: string
  /** Undefined: ourselves. */
  user: User | undefined
  /** Where earlier versions, run as root, had home and cluster in one folder of PostgreSQL's user. */
  former: string | undefined
}

/**
 * Says where things are, and touches nothing.
 * @param port of the server, where it is not PostgreSQL's own
 */
export function findPlaces(wanted: string, port?: string): Places {
  const folder = resolve(wanted)
  const user = process.getuid?.() === 0 ? unprivilegedUser() : undefined
  const id = createHash('sha256').update(folder).digest('hex').slice(0, 16)
  const home = user === undefined ? folder : join('/var/tmp', `pgws-${id}`)
  const cluster = user === undefined ? home : join(home, 'cluster')
  // A socket's path has at most 107 bytes (unix(7)), which a checkout's may not leave room for.
  const root = Buffer.byteLength(tmpdir()) < 50 && user === undefined ? tmpdir() : '/tmp'
  const sockets = join(root, `pgws-${user?.uid ?? process.getuid?.()}-${id}`)
  return {
    home,
    cluster,
    data: join(cluster, 'data'),
    log: join(home, 'postgres.log'),
    owner: join(home, 'owner.json'),
    sockets,
    uri: `postgresql://postgres@/postgres?host=${encodeURIComponent(sockets)}${port ? `&port=${port}` : ''}`,
    user,
    former: user && join('/var/tmp', `fastify-pg-websockets-${id}`)
  }
}

/** The user that PostgreSQL runs as when we are root: `postgres` where there is one, else `nobody`. */
function unprivilegedUser(): User {
  const users = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
  for (const name of ['postgres', 'nobody']) {
    const [, , uid, gid] = users.find(([candidate]) => candidate === name) ?? []
    if (Number(uid) > 0) return { uid: Number(uid), gid: Number(gid) }
  }
  throw new Error(
    'PostgreSQL does not run as root, and there is no user "postgres" or "nobody" to run it as: start this server as another user, or set PGWS_DB_URI'
  )
}

/**
 * Makes the folder that is ours, and the one of the socket.
 * @throws Error where somebody else has made them, or may write to them
 */
export function prepareHome({ home, sockets, user }: Places): void {
  mkdirSync(home, { recursive: true, mode: 0o700 })
  const { mode } = checkFolder(home, process.getuid?.())
  if ((mode & 0o022) !== 0) throw new Error(`other users may write to ${home}: run chmod go-w on it`)
  // PostgreSQL's user has to find its folder and the binaries.
  if (user !== undefined) chmodSync(home, 0o711)
  makeFolder(sockets, user)
  if ((checkFolder(sockets, user?.uid ?? process.getuid?.()).mode & 0o077) !== 0) {
    throw new Error(`other users may access ${sockets}: remove it`)
  }
}

/**
 * Makes the folder that is PostgreSQL's, or takes over what an earlier version has left.
 * @throws Error where a server of that version still runs on it
 */
export function prepareCluster({ cluster, home, user, former }: Places): void {
  if (cluster === home) return
  const there = lstatSync(cluster, { throwIfNoEntry: false }) !== undefined
  const old = former === undefined ? undefined : lstatSync(former, { throwIfNoEntry: false })
  if (!there && old?.isDirectory() && old.uid === user?.uid) {
    const owner = readOwner(join(former!, 'owner.json'))
    if (owner !== undefined && isAlive(owner)) {
      throw new Error(
        `Another server (process ${owner.pid}) uses the embedded database in ${former}: stop it`
      )
    }
    renameSync(former!, cluster)
  }
  makeFolder(cluster, user)
  checkFolder(cluster, user?.uid)
}

/** Makes a folder for PostgreSQL's user, unless it is there. */
function makeFolder(folder: string, user: User | undefined): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  // Not one of that user's: it could be exchanged for a link meanwhile.
  if (user !== undefined && lstatSync(folder).uid === 0) lchownSync(folder, user.uid, user.gid)
}

/** These may be in folders that everybody may write to: what is there may have been put there by somebody else. */
function checkFolder(folder: string, uid: number | undefined) {
  const stat = lstatSync(folder)
  if (!stat.isDirectory() || stat.uid !== uid) {
    throw new Error(
      `${folder} is not a folder of this user: remove it, or set PGWS_EMBEDDED_FOLDER to another folder`
    )
  }
  return stat
}
