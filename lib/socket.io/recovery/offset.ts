/**
 * What a client has got. It is appended to each packet that connection state recovery covers. The client has got all
 * packets that were committed up to a position; and all packets of one node up to a number, because a node sends its own
 * packets to its own clients before they are committed.
 */
export interface Offset {
  epoch: string
  position: number
  own?: { uid: string; seq: number } | undefined
}

const OFFSET = /^([0-9a-f]{8})-([0-9a-z]{1,11})(?:-([0-9a-z]{1,11})-(.+))?$/s

export function writeOffset({ epoch, position, own }: Offset): string {
  const start = `${epoch}-${position.toString(36)}`
  return own === undefined ? start : `${start}-${own.seq.toString(36)}-${own.uid}`
}

/** @returns undefined if the text is not an offset */
export function readOffset(text: string): Offset | undefined {
  const [, epoch, position, seq, uid] = OFFSET.exec(text) ?? []
  if (epoch === undefined) return undefined
  const offset = {
    epoch,
    position: Number.parseInt(position!, 36),
    own: uid === undefined ? undefined : { uid, seq: Number.parseInt(seq!, 36) }
  }
  return Number.isSafeInteger(offset.position) && Number.isSafeInteger(offset.own?.seq ?? 0)
    ? offset
    : undefined
}
