/** How often to look, in milliseconds. */
const INTERVAL = 200

/**
 * Watches the parent of this process where `npx` has started it: `npx` runs a shell, which runs this process. A shell that
 * waits for it (dash) is ended by a signal to `npx`, and does not forward it.
 * @param onEnd is called when the parent has ended
 * @returns a function that ends the watch
 */
export function watchNpx(onEnd: () => void): () => void {
  if (process.env.npm_command !== 'exec') return () => {}
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    onEnd()
  }, INTERVAL).unref()
  return () => clearInterval(timer)
}
