import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { until } from './helper.js'
import { root } from './root.js'

/** The command, as built. */
export const CLI = join(root, 'dist/cli.js')

/** A free port below those that the system gives to outgoing connections, which would take it meanwhile. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    const server = createServer().listen(port, '127.0.0.1')
    const free = await once(server, 'listening').then(
      () => true,
      () => false
    )
    if (!free) continue
    server.close()
    await once(server, 'close')
    return port
  }
}

export interface App {
  child: ChildProcess
  port: number
  http: string
  ws: string
  output: () => string
  exit: Promise<number | null>
}

/** Runs the command with an environment of its own. */
export async function run(
  t: Test,
  environment: Record<string, string>,
  args: string[] = [],
  cli = CLI
): Promise<App> {
  const port = await freePort()
  const cwd = mkdtempSync(join(tmpdir(), 'pgws-cwd-'))
  t.teardown(() => rmSync(cwd, { recursive: true, force: true }))
  const child = spawn(process.execPath, [cli, ...args], {
    cwd,
    env: { PATH: process.env.PATH, HOME: cwd, PGWS_PORT: String(port), ...environment }
  })
  t.teardown(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
  })
  let text = ''
  child.stdout.on('data', (chunk) => (text += chunk))
  child.stderr.on('data', (chunk) => (text += chunk))
  const exit = once(child, 'close').then(([code]) => code as number | null)
  return {
    child,
    port,
    http: `http://127.0.0.1:${port}`,
    ws: `ws://127.0.0.1:${port}`,
    output: () => text,
    exit
  }
}

/** Waits until it listens. */
export async function started(app: App): Promise<App> {
  await until(() => app.output().includes('Server listening') || app.child.exitCode !== null)
  if (app.child.exitCode !== null) throw new Error(app.output())
  return app
}

/** Asks for a fresh token, as our page does. */
export const refresh = (http: string, token: string) =>
  fetch(`${http}/token`, { method: 'POST', headers: { authorization: `Bearer ${token}` } })
