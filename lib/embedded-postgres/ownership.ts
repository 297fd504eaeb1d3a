import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readlinkSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from '../thrown.js'
import { readOwnFile } from './own-file.js'
import { isAlive, type Owner, readOwner, startTime } from './owner.js'
import type { Places, User } from './places.js'

/** How long PostgreSQL may take to shut down before a harder signal is sent, in milliseconds. */
export const STOP_DEADLINE = 10_000

/** Records in the owner file that this process uses the data, unless another running server does. */
export async function takeOwnership(places: Places, log: (line: string) => void): Promise<void> {
  const own: Owner = { pid: process.pid, started: startTime(process.pid) ?? '', uri: places.uri }
  for (let attempt = 0; ; attempt++) {
    try {
      const file = openSync(places.owner, 'wx', 0o600)
      writeFileSync(file, JSON.stringify(own))
      closeSync(file)
      return
    } catch (error) {
      if (codeOf(error) !== 'EEXIST' || attempt === 10) throw error
    }
    const owner = readOwner(places.owner)
    if (owner !== undefined && isAlive(owner)) {
      throw new Error(
        `Another server (process ${owner.pid}) uses the embedded database in ${places.home}: stop it, or set PGWS_EMBEDDED_FOLDER to another folder`
      )
    }
    if (owner !== undefined) log(`taking over the embedded database of process ${owner.pid}, which has ended`)
    // An empty file is being written by another process.
    else if (attempt < 5) await sleep(50)
    rmSync(places.owner, { force: true })
  }
}

/** Stops the postmaster of a server that was killed together with its watchdog. */
export async function endLeftover(places: Places, log: (line: string) => void): Promise<void> {
  const deadline = performance.now() + STOP_DEADLINE + 4000
  for (let round = 0; ; round++) {
    const pid = postmaster(places)
    if (pid === undefined) return
    if (round === 0) log(`stopping the PostgreSQL (process ${pid}) that still runs on the embedded database`)
    const waited = STOP_DEADLINE + 4000 - (deadline - performance.now())
    try {
      if (round === 0) signal(pid, 'SIGINT', places.user)
      else if (waited > STOP_DEADLINE)
        signal(pid, waited > STOP_DEADLINE + 2000 ? 'SIGKILL' : 'SIGQUIT', places.user)
    } catch {}
    if (performance.now() > deadline)
      throw new Error(`the PostgreSQL on ${places.data} (process ${pid}) does not stop: stop it by hand`)
    await sleep(50)
  }
}

/** The postmaster that runs on the data; undefined if there is none, or if its process id belongs to another process now. */
function postmaster({ data, user }: Places): number | undefined {
  let pid: number
  try {
    pid = Number(readOwnFile(join(data, 'postmaster.pid'), user?.uid)?.split('\n')[0])
  } catch {
    return undefined
  }
  if (!Number.isInteger(pid) || pid <= 1) return undefined
  if (process.platform === 'linux') {
    try {
      // The working directory of a postmaster is its data folder, and it runs as the user that wrote the file.
      const runs = readlinkSync(`/proc/${pid}/cwd`) === realpathSync(data)
      return runs && statSync(`/proc/${pid}`).uid === (user?.uid ?? process.getuid?.()) ? pid : undefined
    } catch {
      return undefined
    }
  }
  const { stdout } = spawnSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' })
  return stdout.includes('postgres') && stdout.includes(data) ? pid : undefined
}

/**
 * Sends a signal to a process as PostgreSQL's user, which may signal only its own processes, because the process id comes from
 * a file of that user.
 * @throws Error if there is no such process
 */
export function signal(pid: number, name: NodeJS.Signals, user: User | undefined): void {
  if (user === undefined) {
    process.kill(pid, name)
    return
  }
  const args = ['-c', 'kill -s "$1" "$2"', 'kill', name.replace('SIG', ''), String(pid)]
  const { status } = spawnSync('/bin/sh', args, { cwd: '/', stdio: 'ignore', ...user })
  if (status !== 0) throw new Error(`could not send a signal to process ${pid}`)
}
