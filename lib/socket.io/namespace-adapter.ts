import type { NamespaceInbox } from './packets/namespace-inbox.js'

/** The adapter of one namespace, as the shared link sees it. */
export interface NamespaceAdapter {
  readonly nsp: string
  /** The database channel of its packets. */
  readonly channel: string
  readonly uid: string
  readonly inbox: NamespaceInbox
  /** The other nodes that are known in the namespace. */
  peers(): Iterable<string>
  /** Sends a heartbeat that the other nodes answer with theirs. */
  hello(): void
  /**
   * Reports that packets may be lost.
   * @param milliseconds how long the listener was disconnected
   */
  gap(milliseconds: number): void
  /** The position up to which all packets have been delivered; undefined until it is known where the namespace begins. */
  readonly position: number | undefined
  /** Sets the position at which the namespace begins. */
  begin(position: number): void
}
