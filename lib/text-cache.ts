import { LRUCache } from 'lru-cache'

/** How many answers are remembered, and how many bytes they and their keys may take. */
const MAX_ENTRIES = 10_000
const MAX_BYTES = 4 * 1024 * 1024

/** What an entry takes beside its key. */
const ENTRY_BYTES = 100

/**
 * Answers by texts that clients choose: those that were used last, within a bound of bytes.
 * @param ttl how long an answer may be used, in milliseconds; undefined: as long as it is there
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
