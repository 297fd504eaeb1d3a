import type { Test } from 'tap'
import { run } from './app.js'

/** Runs a command to its end. */
export async function command(t: Test, args: string[], environment: Record<string, string> = {}) {
  const app = await run(t, environment, args)
  let printed = ''
  app.child.stdout!.on('data', (chunk) => {
    printed += chunk
  })
  const code = await app.exit
  /** `printed`: what it wrote to standard output; `output`: all that it wrote. */
  return { code, printed, output: app.output() }
}
