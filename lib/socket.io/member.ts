import type { NamespaceInbox } from './packets/namespace-inbox.js'

/** A namespace's adapter, as the transport sees it. */
export interface Member {
  readonly nsp: string
  readonly uid: string
  readonly inbox: NamespaceInbox
  /** The other nodes that are known there. */
  peers(): Iterable<string>
  /** Says that this node is there, and asks the others to say so. */
  hello(): void
  /** Something may be lost: for so many milliseconds nothing was heard. */
  gap(milliseconds: number): void
  /** The place in the order of packets up to which all were delivered. */
  readonly position: number | undefined
  /** Where it begins. */
  begin(position: number): void
}
