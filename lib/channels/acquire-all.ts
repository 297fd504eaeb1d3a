/**
 * Acquires several things, or none of them if one fails.
 * @param acquire is called for all names at once. One that rejects has to be released, too.
 * @returns a function that releases all of them; calling it again does nothing
 * @throws what `acquire` rejects with first
 */
export async function acquireAll(
  names: readonly string[],
  acquire: (name: string) => Promise<unknown>,
  release: (name: string) => void
): Promise<() => void> {
  const acquired = names.map(acquire)
  let released = false
  const releaseAll = () => {
    if (released) return
    released = true
    for (const name of names) release(name)
  }
  try {
    await Promise.all(acquired)
  } catch (error) {
    releaseAll()
    throw error
  }
  return releaseAll
}
