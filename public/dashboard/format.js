// Numbers and times as people read them.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
const small = new Intl.NumberFormat('en', { maximumFractionDigits: 1 })
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' })
const day = new Intl.DateTimeFormat(undefined, { day: '2-digit', month: 'short' })
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

/** What is shown for nothing. */
export const NONE = '–'

const known = (value) => typeof value === 'number' && Number.isFinite(value)

export const count = (value) => (known(value) ? whole.format(value) : NONE)

export const number = (value) => (known(value) ? (Math.abs(value) < 10 ? small : whole).format(value) : NONE)

/** A number with the word for it. */
export const counted = (value, one, many = one + 's') => count(value) + ' ' + (value === 1 ? one : many)

export const rate = (value) => (known(value) ? number(value) + '/s' : NONE)

export function milliseconds(value) {
  if (!known(value)) return NONE
  return value >= 1000 ? small.format(value / 1000) + ' s' : number(value) + ' ms'
}

export const percent = (value) => (known(value) ? number(value * 100) + ' %' : NONE)

export function bytes(value) {
  if (!known(value)) return NONE
  let unit = 0
  for (; Math.abs(value) >= 1024 && unit < UNITS.length - 1; unit++) value /= 1024
  return number(value) + ' ' + UNITS[unit]
}

/** A duration in milliseconds, in its two largest units. */
export function duration(value) {
  if (!known(value)) return NONE
  const seconds = Math.max(0, Math.round(value / 1000))
  const parts = [[Math.floor(seconds / 86400), 'd'], [Math.floor(seconds / 3600) % 24, 'h'], [Math.floor(seconds / 60) % 60, 'min'], [seconds % 60, 's']]
  const first = parts.findIndex(([amount]) => amount > 0)
  if (first === -1) return '0 s'
  return parts.slice(first, first + 2).filter(([amount]) => amount > 0).map((part) => part.join(' ')).join(' ')
}

/** The time of day; with the day, if it is not today. @param time ISO 8601, or milliseconds */
export function time(value) {
  const date = new Date(value)
  if (Number.isNaN(date.getTime())) return NONE
  const text = clock.format(date)
  return date.toDateString() === new Date().toDateString() ? text : day.format(date) + ' ' + text
}

export const timeOfDay = (value) => clock.format(new Date(value))

/** The beginning of a text. */
export const cut = (text, length) => (text.length > length ? text.slice(0, length) + '…' : text)
