import { unnamedMessageOf } from '../../lib/errors.js'

type Level = 'OK' | 'warning' | 'error'

/** Prints findings, one line each: the level, what was checked, and what to do. */
export class Report {
  readonly #out: NodeJS.WritableStream
  readonly #counts: Record<Level, number> = { OK: 0, warning: 0, error: 0 }

  constructor(out: NodeJS.WritableStream) {
    this.#out = out
  }

  ok(check: string, text: string): void {
    this.#print('OK', check, text)
  }

  /** Reports something that may be intended. */
  warning(check: string, text: string): void {
    this.#print('warning', check, text)
  }

  /** Reports something that prevents the server from working. */
  error(check: string, problem: unknown): void {
    this.#print('error', check, typeof problem === 'string' ? problem : unnamedMessageOf(problem))
  }

  /** Runs a check, and reports its error. */
  async attempt<Result>(check: string, action: () => Result | Promise<Result>): Promise<Result | undefined> {
    try {
      return await action()
    } catch (error) {
      this.error(check, error)
      return undefined
    }
  }

  get failed(): boolean {
    return this.#counts.error > 0
  }

  /** Prints how many errors and warnings there are. */
  end(): void {
    const { error, warning } = this.#counts
    const count = (number: number, word: string) => `${number} ${word}${number === 1 ? '' : 's'}`
    const all =
      error + warning === 0 ? 'all is well' : `${count(error, 'error')}, ${count(warning, 'warning')}`
    this.#out.write(`\n${all}\n`)
  }

  #print(level: Level, check: string, text: string): void {
    this.#counts[level]++
    this.#out.write(`${level.padEnd(8)} ${check.padEnd(13)}  ${text.replaceAll('\n', ' ')}\n`)
  }
}
