import { setImmediate as nextTurn } from 'node:timers/promises'
import { errors } from './errors.js'

/** Lists of thousands of items are examined in steps of so many, so that deliveries continue in between. */
const STEP = 2000

/** The maximum number of items of a page. */
export const MAX_PAGE = 1000

/** A page of a list. */
export interface Page<Item> {
  items: Item[]
  /** How many items match, on all pages. */
  total: number
  /** Whether there are more after this page. */
  more: boolean
}

/** What a request says of the page that it wants. */
export interface Paging {
  /** The maximum number of items, 1 to 1,000. Default: all of them. */
  limit?: number | undefined
  /** Where the page begins: the `next` of the page before. Default: the beginning of the list. */
  after?: string | undefined
  /** Is called with the number of items on all pages, and the `after` of the next page; undefined: this is the last one. */
  onPage?: ((page: { total: number; next: string | undefined }) => void) | undefined
}

/** @throws BadQuery (400) for a limit that is not allowed */
export function readLimit(limit: unknown): number | undefined {
  if (limit === undefined) return undefined
  if (Number.isInteger(limit) && Number(limit) >= 1 && Number(limit) <= MAX_PAGE) return Number(limit)
  throw new errors.BadQuery(`"limit" must be a whole number from 1 to ${MAX_PAGE}`)
}

export interface PageOptions<Item> {
  matches: (item: Item) => boolean
  /** Whether it comes after what the earlier pages have. */
  isAfter: (item: Item) => boolean
  /** The order of the list. Items that are equal are one item, of which the first is kept. Undefined: as they come. */
  compare: ((one: Item, other: Item) => number) | undefined
  /** Undefined: all. */
  limit: number | undefined
}

/**
 * Finds a page of a list that has no order of its own, and may change meanwhile. It gives the event loop turns, and sorts
 * no more than it needs.
 */
export async function pageOf<Item>(
  list: Iterable<Item>,
  { matches, isAfter, compare, limit = Number.POSITIVE_INFINITY }: PageOptions<Item>
): Promise<Page<Item>> {
  let items: Item[] = []
  /** Nothing from here on belongs to the page. */
  let bound: Item | undefined
  let total = 0
  let candidates = 0
  let examined = 0
  for (const item of list) {
    if (++examined % STEP === 0) await nextTurn()
    if (!matches(item)) continue
    total++
    if (!isAfter(item)) continue
    candidates++
    if (bound !== undefined && compare!(item, bound) >= 0) continue
    items.push(item)
    if (compare === undefined || items.length < limit + STEP) continue
    items.sort(compare)
    items.length = limit
    bound = items.at(-1)
  }
  if (compare !== undefined) {
    items.sort(compare)
    items = items.filter((item, index) => index === 0 || compare(items[index - 1]!, item) !== 0)
  }
  return { items: items.slice(0, limit), total, more: candidates > limit }
}

/** Makes something of each item, and gives the event loop turns meanwhile. */
export async function mapInTurns<Item, Result>(
  items: readonly Item[],
  make: (item: Item) => Result
): Promise<Result[]> {
  const made: Result[] = []
  for (const item of items) {
    made.push(make(item))
    if (made.length % STEP === 0) await nextTurn()
  }
  return made
}
