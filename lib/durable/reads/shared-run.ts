import { Gathering } from './gathering.js'
import { Turns } from './turns.js'

/** The most time between two runs, in milliseconds. The first one after a pause begins at once. */
const MAX_WINDOW = 25

interface Caller<Result> {
  resolve: (result: Result) => void
  reject: (error: unknown) => void
}

/**
 * Makes a function whose calls share runs of another one: calls of a short moment get the result of one run, which begins after
 * all of them.
 */
export function sharedRun<Result>(run: () => Promise<Result>): () => Promise<Result> {
  const gathering = new Gathering<Caller<Result>>({
    owner: '',
    turns: new Turns(1),
    fullSize: Number.POSITIVE_INFINITY,
    window: [0, MAX_WINDOW],
    async run(gathered) {
      const callers = gathered.flatMap(({ requests }) => requests)
      try {
        const result = await run()
        for (const { resolve } of callers) resolve(result)
      } catch (error) {
        for (const { reject } of callers) reject(error)
      }
    }
  })
  return () => new Promise((resolve, reject) => gathering.ask('', 1, { resolve, reject }))
}
