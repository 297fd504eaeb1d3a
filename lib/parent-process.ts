/** How often the parent is checked, in milliseconds. */
const INTERVAL = 200

/**
 * Watches the parent of this process if `npx` has started it. `npx` runs a shell, which runs this process. A signal to `npx`
 * ends a shell that waits (dash), but the shell does not forward the signal.
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
