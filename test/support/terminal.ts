import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { until } from './helper.js'

/** How long a command may take that installs packages, in milliseconds. */
const DEADLINE = 300_000

/** A terminal, into which commands are pasted; ended with the test. */
export class Terminal {
  readonly #shell: ChildProcessWithoutNullStreams
  #output = ''
  #commands = 0

  constructor(t: Test, folder: string, env: NodeJS.ProcessEnv) {
    this.#shell = spawn('bash', ['-e'], { cwd: folder, env, detached: true })
    // One pipe for both, which keeps their order.
    this.#shell.stdin.write('exec 2>&1\n')
    this.#shell.stdout.on('data', (chunk) => {
      this.#output += chunk
    })
    t.teardown(() => this.end())
  }

  /** Runs commands, which must all succeed; resolves with what they have printed. */
  async run(code: string): Promise<string> {
    const begin = this.#output.length
    const end = `end of command ${++this.#commands}\n`
    this.#shell.stdin.write(`${code}\nprintf '%s\\n' '${end.trim()}'\n`)
    const printed = () => this.#output.slice(begin)
    await until(() => printed().endsWith(end) || this.#ended, DEADLINE)
    if (!printed().endsWith(end)) throw new Error(`${code}\n${printed()}`)
    return printed().slice(0, -end.length)
  }

  /** Starts commands that go on; resolves when they have printed something. */
  async start(code: string, printed: string): Promise<void> {
    const begin = this.#output.length
    this.#shell.stdin.write(`${code}\n`)
    await until(() => this.#output.slice(begin).includes(printed) || this.#ended, DEADLINE)
    if (!this.#output.slice(begin).includes(printed)) throw new Error(`${code}\n${this.#output.slice(begin)}`)
  }

  /** Ends whatever runs; resolves with all that was printed. */
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
