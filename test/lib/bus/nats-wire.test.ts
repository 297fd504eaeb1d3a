import fc from 'fast-check'
import t from 'tap'
import type { Announcement, Beat } from '../../../lib/bus/index.js'
import { decode, encodeAnnouncement, encodeBeat, encodeText, Subjects } from '../../../lib/bus/nats-wire.js'
import { channelNameProblem, MAX_CHANNEL_BYTES } from '../../../lib/channel-name.js'

const MEGABYTE = 1024 * 1024
const subjects = new Subjects('pgws.test')

/** Every name that a channel may have, and long ones more often. */
const channel = fc
  .oneof(
    fc.string({ unit: 'binary', minLength: 1, maxLength: 40 }),
    fc.string({ unit: 'grapheme', minLength: 150, maxLength: MAX_CHANNEL_BYTES })
  )
  .filter((name) => channelNameProblem(name) === undefined)

const announcement: fc.Arbitrary<Announcement> = fc
  .record({
    channel,
    positions: fc.uniqueArray(fc.maxSafeNat(), { minLength: 2, maxLength: 2 }),
    beat: fc.maxSafeNat(),
    text: fc.option(fc.string({ unit: 'binary' }), { nil: undefined })
  })
  .map(({ channel, positions, beat, text }) => ({
    channel,
    position: Math.max(...positions),
    previous: Math.min(...positions),
    beat,
    text
  }))

t.test('the subject of a channel is one valid token, and another one for each channel', (t) => {
  const token = /^pgws\.test\.m\.[\w-]+$/
  fc.assert(
    fc.property(channel, channel, (one, other) => {
      const subject = subjects.channel(one)
      t.ok(token.test(subject) && subject.length < 1500 && subject !== subjects.nobody, subject)
      t.equal(subject === subjects.channel(other), one === other)
    })
  )
  for (const name of [
    '.',
    '*',
    '>',
    'a b',
    'a.b.>',
    'ä',
    '\u{1F600}',
    '\r\n',
    'x'.repeat(MAX_CHANNEL_BYTES)
  ]) {
    t.match(subjects.channel(name), token)
  }
  t.end()
})

t.test('an announcement arrives as it was sent; what is too large without its text', (t) => {
  fc.assert(
    fc.property(announcement, fc.integer({ min: 2000, max: MEGABYTE }), (announcement, maxBytes) => {
      const text = encodeAnnouncement(announcement, maxBytes)
      t.ok(Buffer.byteLength(text) <= maxBytes)
      t.same(decode(Buffer.from(text), announcement.channel), { kind: 'announced', announcement })
    })
  )
  const large = { channel: 'a', position: 2, previous: 1, beat: 0, text: 'ä'.repeat(1000) }
  t.same(decode(Buffer.from(encodeAnnouncement(large, 2000)), 'a'), {
    kind: 'announced',
    announcement: { ...large, text: undefined }
  })
  t.end()
})

t.test('a long name is in the message, and a message of another channel is dropped', (t) => {
  const [long, other] = ['x', 'y'].map((letter) => letter.repeat(MAX_CHANNEL_BYTES)) as [string, string]
  const announced = Buffer.from(
    encodeAnnouncement({ channel: long, position: 2, previous: 1, beat: 0, text: 'a' }, MEGABYTE)
  )
  t.equal(decode(announced, other), undefined)
  t.equal(decode(Buffer.from(encodeText('a', long)), other), undefined)
  t.same(decode(Buffer.from(encodeText('a', long)), long), { kind: 'text', text: 'a' })
  t.end()
})

t.test('a beat arrives as it was sent; one that is too large as several that say the same', (t) => {
  const beats = fc.record({
    number: fc.nat(),
    from: fc.nat(),
    channels: fc.uniqueArray(fc.tuple(fc.nat(2 ** 32 - 1), fc.integer({ min: 1, max: 1e9 })), {
      selector: ([hash]) => hash
    })
  })
  fc.assert(
    fc.property(beats, fc.integer({ min: 80, max: 2000 }), ({ number, from, channels }, maxBytes) => {
      const to = from + 1e9
      const sent = {
        number,
        from,
        to,
        channels: channels.map(([hash, offset]) => [hash, from + offset] as const)
      }
      const texts = encodeBeat(sent, maxBytes)
      const received = texts.map((text) => {
        t.ok(Buffer.byteLength(text) <= maxBytes)
        return (decode(Buffer.from(text), undefined) as { beat: Beat }).beat
      })
      t.ok(received.every((beat) => beat.number === number))
      t.equal(received[0]!.from, from)
      t.equal(received.at(-1)!.to, to)
      for (const [index, { from }] of received.entries()) {
        if (index > 0) t.equal(from, received[index - 1]!.to)
      }
      const sorted = (list: Beat['channels']) => [...list].sort(([one], [other]) => one - other)
      t.same(sorted(received.flatMap(({ channels }) => channels)), sorted(sent.channels))
    })
  )
  t.end()
})

t.test('what no node has sent is ignored', (t) => {
  const inChannel = [
    '',
    'x',
    'm',
    'm1',
    'm1 ',
    'm2 1',
    'mx y z',
    'm1 2 x',
    'm1 1 x',
    'r',
    'r1',
    'r1 2',
    'r2 -1'
  ]
  for (const text of [...inChannel, 'm99999999999999999 1 x', 'b1 2', '#1 am2 1 x']) {
    t.equal(decode(Buffer.from(text), 'a'), undefined, text)
  }
  const elsewhere = [
    '',
    'b',
    'b1',
    'b2 1',
    'b1 2 x',
    'b1 2 a:',
    'b1 2 a:9',
    'b1 2 a:1:1',
    'b1 2 -1:1',
    'm2 1 x',
    'r2 1'
  ]
  for (const text of elsewhere) t.equal(decode(Buffer.from(text), undefined), undefined, text)
  fc.assert(
    fc.property(fc.uint8Array(), fc.option(channel, { nil: undefined }), (bytes, channel) => {
      decode(bytes, channel)
    })
  )
  t.end()
})
