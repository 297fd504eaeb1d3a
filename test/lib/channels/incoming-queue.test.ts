import t from 'tap'
import { IncomingQueue } from '../../../lib/channels/incoming-queue.js'
import type { Message } from '../../../lib/messages/message.js'
import { messageId, type Reference, storedMessage } from '../../../lib/messages/notification-payload.js'

t.test('the floor stays below a message that waits for its row', async (t) => {
  const delivered: (number | undefined)[] = []
  let answer = () => {}
  const rows = new Promise<void>((resolve) => {
    answer = resolve
  })
  const rowOf = (position: number) => storedMessage('0000000e', position, 'a', '{"payload":1}')
  const inbox = new IncomingQueue({
    listenChannel: 'listen',
    deliver: ({ position }) => delivered.push(position),
    wanted: () => true,
    resolve: async (references: readonly Reference[]) => {
      await rows
      return new Map<Reference, Message>(references.map((one) => [one, rowOf(one.position)]))
    },
    onMessage() {},
    onLost: (reason) => t.fail(reason),
    onGap: () => t.fail('nothing is missing'),
    replays: true
  })
  const hear = (position: number) =>
    inbox.receive(`{"id":"${messageId('0000000e', position)}","channel":"a","payload":1}`)
  inbox.startAt(10)
  hear(11)
  inbox.receive('{"pgws":"message","position":12,"channel":"a"}')
  hear(13)
  inbox.mark()
  t.notOk(inbox.prove(13))
  t.equal(inbox.floor, 10)
  answer()
  await new Promise((resolve) => setImmediate(resolve))
  t.same(delivered, [11, 12, 13])
  t.ok(inbox.prove(13))
  t.equal(inbox.floor, 11)
  inbox.mark()
  t.ok(inbox.prove(13))
  t.equal(inbox.floor, 13)
})
