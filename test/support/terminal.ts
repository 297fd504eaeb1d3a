import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { until } from './helper.js'

/** How long a command may take, in milliseconds. Some install packages. */
const DEADLINE = 300_000

/** A shell into which commands are pasted. It is ended after the test. */
export class Terminal {
  readonly #shell: ChildProcessWithoutNullStreams
  #output = ''
  #commands = 0

  constructor(t: Test, folder: string, env: NodeJS.ProcessEnv) {
    this.#shell = spawn('bash', ['-e'], { cwd: folder, env, detached: true })
    // One pipe for standard output and error keeps their order.
    this.#shell.stdin.write('exec 2>&1\n')
    this.#shell.stdout.on('data', (chunk) => {
      this.#output += chunk
    })
    t.teardown(() => this.end())
  }

  /** Runs commands, all of which must succeed. Resolves with their output. */
  async run(code: string): Promise<string> {
    const begin = this.#output.length
    const end = `end of command ${++this.#commands}\n`
    this.#shell.stdin.write(`${code}\nprintf '%s\\n' '${end.trim()}'\n`)
    const printed = () => this.#output.slice(begin)
    await until(() => printed().endsWith(end) || this.#ended, DEADLINE)
    if (!printed().endsWith(end)) throw new Error(`${code}\n${printed()}`)
    return printed().slice(0, -end.length)
  }

  /** Starts commands that keep running. Resolves when they have printed a text. */
  async start(code: string, printed: string): Promise<void> {
    const begin = this.#output.length
    this.#shell.stdin.write(`${code}\n`)
    await until(() => this.#output.slice(begin).includes(printed) || this.#ended, DEADLINE)
    if (!this.#output.slice(begin).includes(printed)) throw new Error(`${code}\n${this.#output.slice(begin)}`)
  }

  /** Ends the shell and everything that runs in it. Resolves with the whole output. */
  async end(): Promise<string> {
    if (!this.#ended) {
      process.kill(-this.#shell.pid!, 'SIGTERM')
      await once(this.#shell, 'close')
    }
    return this.#output
  }

  get #ended(): boolean {
    return this.#shell.exitCode !== null || this.#shell.signalCode !== null
  }
}
