import t from 'tap'
import { BEATS, Peers } from '../../../lib/cluster/peers.js'

t.test('a silent node is removed after its timeout, and after ten of ours at the latest', async (t) => {
  const left: string[] = []
  const members = new Peers({ timeout: 1000, onJoin() {}, onLeave: ({ id }) => left.push(id) })
  const state = { hostname: 'here', pid: 1, version: '1', startedAt: 0, connections: 0 }
  const timeouts = { short: 0, same: 1000, longer: 5000, forged: Number.MAX_SAFE_INTEGER }
  for (const [id, timeout] of Object.entries(timeouts)) members.update(id, { ...state, timeout })
  const leftAfter: Record<string, number> = {}
  for (let beat = 1; beat <= 20 * BEATS; beat++) {
    members.beat()
    for (const id of left.splice(0)) leftAfter[id] = beat / BEATS
  }
  t.same(leftAfter, { short: 1, same: 1, longer: 5, forged: 10 })
  t.same(members.ids, [])
})
