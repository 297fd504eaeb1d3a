import { LRUCache } from 'lru-cache'

/** The maximum number of entries, and of bytes that they and their keys take. */
const MAX_ENTRIES = 10_000
const MAX_BYTES = 4 * 1024 * 1024

/** The size of an entry without its key, in bytes. */
const ENTRY_BYTES = 100

/**
 * A cache whose keys are texts that clients choose. Its size in bytes is bounded; the least recently used entries are
 * removed first.
 * @param ttl how long an entry is valid, in milliseconds; undefined: without limit
 */
export function textCache<Answer extends {}>(ttl?: number): LRUCache<string, Answer> {
  return new LRUCache({
    max: MAX_ENTRIES,
    maxSize: MAX_BYTES,
    // A character of a JavaScript string takes at most two bytes.
    sizeCalculation: (_answer, key) => ENTRY_BYTES + 2 * key.length,
    ...(ttl !== undefined && { ttl })
  })
}
