import t from 'tap'
import type { Frame } from '../../../lib/channels/index.js'
import { HeldFrames } from '../../../lib/flow/held-frames.js'

const MAX_BYTES = 100

/** A frame of ten bytes. @param position undefined: it is not durable */
function frame(position?: number): Frame {
  return { bytes: Buffer.alloc(10), position }
}

t.test('held frames follow the replay, except those that were replayed', async (t) => {
  const held = new HeldFrames(MAX_BYTES)
  const [passing, newer] = [frame(), frame(5)]
  t.ok(held.add([frame(3), passing]))
  t.ok(held.add([frame(4), newer]))
  t.ok(held.holding)
  t.strictSame(held.release(4), [passing, newer])
  t.notOk(held.holding)
  t.ok(held.done)
})

t.test('skips replayed frames that arrive after the release, until a newer one does', async (t) => {
  const held = new HeldFrames(MAX_BYTES)
  t.strictSame(held.release(7), [])
  t.notOk(held.done)
  const [passing, newer] = [frame(), frame(8)]
  t.strictSame(held.fresh([frame(6), passing]), [passing])
  t.notOk(held.done)
  t.strictSame(held.fresh([frame(7), newer]), [newer])
  t.ok(held.done)
  const frames = [frame(9)]
  t.equal(held.fresh(frames), frames)
})

t.test('without a replay every frame is new', async (t) => {
  const held = new HeldFrames(MAX_BYTES)
  const frames = [frame(), frame(1)]
  held.add(frames)
  t.strictSame(held.release(undefined), frames)
  t.ok(held.done)
})

t.test('too many durable frames are read again; the others are kept, and count', async (t) => {
  const held = new HeldFrames(MAX_BYTES)
  const passing = frame()
  t.ok(held.add([passing, ...Array.from({ length: 10 }, (_, n) => frame(n + 1))]))
  t.ok(held.add([frame(11)]), 'no durable frame is held until the replay has continued')
  t.equal(held.release(5), undefined)
  t.ok(held.holding)
  const newer = Array.from({ length: 9 }, (_, n) => frame(n + 12))
  t.ok(held.add(newer))
  t.strictSame(held.release(11), [passing, ...newer])

  const full = new HeldFrames(MAX_BYTES)
  full.add([...Array.from({ length: 9 }, () => frame()), frame(1), frame(2)])
  t.equal(full.release(0), undefined)
  full.add([frame(3), frame(4)])
  t.equal(full.release(2), undefined, 'kept frames still count')
  t.equal(full.release(4)?.length, 9)
})

t.test('durable frames are dropped until keep() is called; the others are always held', async (t) => {
  const held = new HeldFrames(MAX_BYTES)
  const [first, second, newer] = [frame(), frame(), frame(3)]
  t.ok(held.add([frame(1), first]))
  held.skip()
  for (let n = 0; n < 100; n++) t.ok(held.add([frame(2)]))
  t.ok(held.add([second]))
  t.equal(held.release(1), undefined)
  held.skip()
  held.keep()
  t.ok(held.add([newer]))
  t.strictSame(held.release(2), [first, second, newer])
  held.skip()

  const full = new HeldFrames(MAX_BYTES)
  full.skip()
  t.ok(full.add(Array.from({ length: 10 }, () => frame())))
  t.notOk(full.add([frame()]))
})

t.test('reports lost frames if too many of them cannot be read again', async (t) => {
  const held = new HeldFrames(MAX_BYTES)
  t.notOk(held.add(Array.from({ length: 11 }, () => frame())))
  t.equal(held.release(0), undefined)
})
