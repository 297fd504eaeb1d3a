import { $, element } from './dom.js'

/** The members, by channel and client; undefined if the channel does not track presence. */
let people

/** @param change all `clients` of a channel, or the one that `joined` or `left`; without any, the members are not known */
export function changePeople({ channel, clients, joined, left }, room) {
  if (channel === undefined) people = undefined
  else people ??= new Map()
  const keyOf = ({ client }) => channel + ' ' + client
  if (clients) {
    for (const [key, one] of people) if (one.channel === channel) people.delete(key)
    for (const one of clients) people.set(keyOf(one), { ...one, channel })
  }
  if (joined) people.set(keyOf(joined), { ...joined, channel })
  if (left) people.delete(keyOf(left))
  showPeople(room)
}

/** @param empty says why the members are not known */
export function forgetPeople(empty, room) {
  people = undefined
  showPeople(room, empty)
}

function showPeople(room, empty = 'Not known: this channel does not track presence.') {
  $('people').dataset.empty = empty
  $('people-count').textContent = people ? String(people.size) : ''
  $('people').replaceChildren(...[...(people?.values() ?? [])].map(({ client, user, channel }) => {
    const item = element('li')
    item.append(element('span', '', user || 'without a name'))
    item.title = 'Connection ' + client
    const about = [room.channel === '' && channel, client === room.client && '(this window)'].filter(Boolean).join(' ')
    if (about) item.append(element('span', 'soft', about))
    return item
  }))
}
