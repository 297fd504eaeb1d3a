import { type Format, type Frame, joinFrames } from '../../channels/index.js'
import type { Page } from '../message-store.js'
import type { StoredMessage } from '../stored-message.js'

/** The messages of a page in a format. */
export interface EncodedPage {
  frames: readonly Frame[]
  /** The same bytes in one buffer. */
  joined: Buffer
}

/** A page of some channels. Readers that ask for the same at the same time get the same object. */
export class ChannelPage implements Page {
  readonly messages: StoredMessage[]
  readonly more: boolean
  /** The position up to which messages of one of the channels had been deleted when the page was read. */
  readonly trimmed: number
  /** The last position that is stored, or `trimmed` if that is greater. No reader of these channels is beyond it. */
  readonly latest: number
  readonly #formats = new Map<Format, EncodedPage>()

  constructor(messages: StoredMessage[], more: boolean, trimmed: number, latest: number) {
    this.messages = messages
    this.more = more
    this.trimmed = trimmed
    this.latest = latest
  }

  /** The page without the messages up to a position. */
  after(position: number): ChannelPage {
    const messages = this.messages.filter((message) => message.position > position)
    return new ChannelPage(messages, this.more, this.trimmed, this.latest)
  }

  /** All readers of the page share the buffer, so that it is made once, and waits for them once. */
  encode(format: Format): EncodedPage {
    let encoded = this.#formats.get(format)
    if (encoded === undefined) {
      const frames = this.messages.map((message) => message.frame(format))
      encoded = { frames, joined: joinFrames(frames) }
      this.#formats.set(format, encoded)
    }
    return encoded
  }
}
