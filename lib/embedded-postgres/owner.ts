import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { readOwnFile } from './own-file.js'

/** The server whose database it is. */
export interface Owner {
  pid: number
  started: string
  uri: string
}

/** What a server has written down; undefined where there is nothing, or nothing of ours. */
export function readOwner(file: string): Owner | undefined {
  try {
    return JSON.parse(readOwnFile(file) ?? 'null') ?? undefined
  } catch {
    return undefined
  }
}

/** A process id is given again to another process; with the time of its start it is one process's alone. */
export function isAlive({ pid, started }: Owner): boolean {
  return startTime(pid) === started
}

export function startTime(pid: number): string | undefined {
  try {
    // proc(5): fields 3 and 22, counted behind the command's name, which may hold spaces.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    // A zombie has ended; only its parent has not asked yet.
    return fields[0] === 'Z' ? undefined : fields[19]
  } catch {
    if (process.platform === 'linux') return undefined
    const { stdout, status } = spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' })
    return status === 0 ? stdout.trim() : undefined
  }
}
