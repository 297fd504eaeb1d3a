import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { readOwnFile } from './own-file.js'

/** The server that uses an embedded database. */
export interface Owner {
  pid: number
  started: string
  uri: string
}

/** Reads the owner file; undefined if it does not exist or is not valid. */
export function readOwner(file: string): Owner | undefined {
  try {
    return JSON.parse(readOwnFile(file) ?? 'null') ?? undefined
  } catch {
    return undefined
  }
}

/** The start time of a process. Process ids are reused, but together with the start time they are unique. */
export function isAlive({ pid, started }: Owner): boolean {
  return startTime(pid) === started
}

export function startTime(pid: number): string | undefined {
  try {
    // proc(5): fields 3 and 22, counted after the name of the command, which may contain spaces.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    // A zombie has ended.
    return fields[0] === 'Z' ? undefined : fields[19]
  } catch {
    if (process.platform === 'linux') return undefined
    const { stdout, status } = spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' })
    return status === 0 ? stdout.trim() : undefined
  }
}
