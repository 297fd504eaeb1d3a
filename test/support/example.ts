import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { until } from './helper.js'
import { root } from './root.js'

/** A running example, started as its README says. */
export interface Example {
  /** Its output so far. */
  output(): string
  /** The addresses in its output. */
  addresses(): string[]
  /** Sends SIGINT, as Ctrl-C does, waits until it has ended, and checks that no process and no file is left. */
  stop(): Promise<void>
}

/**
 * Runs `npm run example -- <name>`, and resolves when it has printed its addresses.
 * @param count how many addresses it prints
 */
export async function startExample(
  t: Test,
  name: string,
  { count = 1, env = {} }: { count?: number; env?: NodeJS.ProcessEnv } = {}
): Promise<Example> {
  const folder = mkdtempSync(join(tmpdir(), 'pgws-example-'))
  const environment: NodeJS.ProcessEnv = { ...process.env, PORT: '0', TMPDIR: folder, ...env }
  for (const variable of ['NODE_OPTIONS', 'PGWS_DB_URI', 'DATABASE_URL']) delete environment[variable]
  const child = spawn('npm', ['run', '--silent', 'example', '--', name], {
    cwd: root,
    env: environment,
    // It has a process group of its own, as in a terminal.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let text = ''
  let ended = false
  const exited = once(child, 'close').then(([code]) => {
    ended = true
    return code as number | null
  })
  const addresses = () => [...text.matchAll(/Open (http:\/\/\S+)/g)].map(([, address]) => address!)
  t.teardown(async () => {
    if (!ended) process.kill(-child.pid!, 'SIGTERM')
    await exited
    rmSync(folder, { recursive: true, force: true })
  })
  await new Promise<void>((resolve, reject) => {
    const add = (chunk: Buffer) => {
      text += chunk
      if (addresses().length === count) resolve()
    }
    child.stdout.on('data', add)
    child.stderr.on('data', add)
    exited.then(() => reject(new Error(`the example has ended:\n${text}`)))
  })

  return {
    output: () => text,
    addresses,
    async stop() {
      const processes = descendants(child.pid!)
      process.kill(-child.pid!, 'SIGINT')
      const code = await exited
      t.equal(code, 0, `ends in order: ${text}`)
      t.ok(processes.length > 1, 'the example and its database ran')
      await until(() => !processes.some(isAlive))
      t.same(readdirSync(folder), [], 'no file is left')
    }
  }
}

/** The ids of a process and of all its descendants. */
function descendants(pid: number): number[] {
  const rows = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).trim().split('\n')
  const parents = new Map(rows.map((row) => row.trim().split(/\s+/).map(Number) as [number, number]))
  const found = [pid]
  for (const parent of found) for (const [id, of] of parents) if (of === parent) found.push(id)
  return found
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
