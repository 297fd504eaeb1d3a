import { createHash } from 'node:crypto'
import t from 'tap'
import { GapDetector } from '../../../lib/channels/incoming/gap-detector.js'
import { readAnnouncement } from '../../../lib/messages/announcement.js'

/** An announcement as the database makes it. */
function read(words: string, secret = 'secret') {
  const signature = createHash('sha256').update(`${words}secret`).digest('hex')
  return readAnnouncement(`${signature} ${words}`, secret, 'listen here')
}

const announcement = (previous: number, first: number, last: number, missing = '-') =>
  read(`${previous} ${first} ${last} ${missing} listen here`)!

t.test('ignores an announcement that the database has not made', async (t) => {
  t.same(read('7 9 12 1,2 listen here'), { previous: 7, first: 9, last: 12, missing: new Set([10, 11]) })
  t.equal(read('7 9 12 - listen here', 'another secret'), undefined)
  for (const payload of ['', '7 9 12 - listen here', `${'0'.repeat(64)} 7 9 12 - listen here`, '{"id":1}']) {
    t.equal(readAnnouncement(payload, 'secret', 'listen here'), undefined)
  }
})

t.test('notifications on another listen channel are not missing here', async (t) => {
  const detector = new GapDetector()
  detector.follow(7)
  t.ok(detector.announced(read('7 8 9 - elsewhere')!))
  t.ok(detector.announced(announcement(9, 10, 10)))
  t.ok(detector.arrived(10))
  t.equal(detector.heard, 10)
})

t.test('reports nothing if everything arrives in order', async (t) => {
  const detector = new GapDetector()
  t.ok(detector.arrived(3), 'nothing is known yet')
  detector.follow(7)
  t.ok(detector.announced(announcement(7, 9, 13, '1,3')), 'a transaction was rolled back')
  for (const position of [9, 11, 13]) t.ok(detector.arrived(position))
  t.ok(detector.announced(announcement(13, 14, 14)))
  t.ok(detector.arrived(14))
  t.ok(detector.announced(announcement(14, 15, 14)), 'a beat')
  t.ok(detector.arrived(3), 'an old position again')
  t.ok(detector.announced(announcement(7, 9, 13)), 'an old announcement again')
  t.equal(detector.heard, 14)
})

t.test('reports each kind of gap until it is healed', async (t) => {
  const after = (position: number) => {
    const detector = new GapDetector()
    detector.follow(position)
    return detector
  }
  const first = after(7)
  t.notOk(first.arrived(8), 'the announcement is missing')
  t.notOk(first.arrived(8))
  t.equal(first.heard, 7)
  t.notOk(after(7).announced(announcement(8, 9, 9)), 'a message and its announcement are missing')
  t.notOk(after(7).announced(announcement(8, 9, 8)), 'the last message is missing, as a beat shows')
  const second = after(7)
  t.ok(second.announced(announcement(7, 8, 10)))
  t.ok(second.arrived(8))
  t.notOk(second.arrived(10), 'a message is missing')
  t.notOk(second.announced(announcement(10, 11, 11)), 'the remaining announced messages are missing')
  t.equal(second.heard, 8)
  second.follow(10)
  t.ok(second.announced(announcement(10, 11, 11)))
  t.ok(second.arrived(11))
})
