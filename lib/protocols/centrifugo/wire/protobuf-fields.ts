import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { jsonOf } from '../../../json-text.js'
import type { Fields, FieldType } from './client-schema.js'

/**
 * Messages in protobuf (https://protobuf.dev/programming-guides/encoding), by tables of their fields. Fields are as in
 * proto3: values that are false, 0 or empty are not written, except for messages.
 */

/** A buffer that has grown beyond this is not kept for the next message, in bytes. */
const MAX_KEPT = 64 * 1024

/** One for all messages, because a new one would start with a small buffer, and grow again. */
let writer = new BinaryWriter()

/** Encodes a message. */
export function encodeMessage(fields: Fields, values: object): Buffer {
  return encoded(() => writeMessage(fields, values))
}

/** Encodes a message with its length before it, as the protocol sends commands and replies. */
export function encodeDelimited(fields: Fields, values: object): Buffer {
  return encoded(() => {
    writer.fork()
    writeMessage(fields, values)
    writer.join()
  })
}

function encoded(write: () => void): Buffer {
  try {
    write()
    const { buffer, length } = writer.finish()
    if (length > MAX_KEPT) writer = new BinaryWriter()
    return Buffer.from(buffer, 0, length)
  } catch (error) {
    // The buffer has an incomplete message.
    writer = new BinaryWriter()
    throw error
  }
}

function writeMessage(fields: Fields, values: object): void {
  // Faster than Object.entries(), because this is done for each message.
  for (const name in values) {
    // Its members are those of the table.
    const value = (values as Record<string, unknown>)[name]
    if (value === undefined) continue
    const [number, type] = fields[name]!
    writeField(number, type, value)
  }
}

// The casts below: a value has the type of its field in the table.
function writeField(number: number, type: FieldType, value: unknown): void {
  if (typeof type === 'object') {
    if ('message' in type) writeDelimited(number, type.message, value as object)
    else {
      for (const [key, one] of Object.entries(value as object)) {
        writeDelimited(number, type.map, { key, value: one })
      }
    }
    return
  }
  switch (type) {
    case 'publications':
      for (const bytes of value as readonly Buffer[])
        writer.tag(number, WireType.LengthDelimited).bytes(bytes)
      return
    case 'json':
      writer.tag(number, WireType.LengthDelimited).string(jsonOf(value))
      return
    case 'bytes':
      // A text is written as its bytes in UTF-8.
      if (typeof value === 'string') writer.tag(number, WireType.LengthDelimited).string(value)
      else writer.tag(number, WireType.LengthDelimited).bytes(value as Uint8Array)
      return
    case 'string':
      if (value !== '') writer.tag(number, WireType.LengthDelimited).string(value as string)
      return
    case 'bool':
      if (value === true) writer.tag(number, WireType.Varint).bool(true)
      return
    default:
      if (value !== 0) writer.tag(number, WireType.Varint)[type](value as number)
  }
}

function writeDelimited(number: number, fields: Fields, values: object): void {
  writer.tag(number, WireType.LengthDelimited).fork()
  writeMessage(fields, values)
  writer.join()
}

/** What is wrong with bytes that are not the expected message. */
export class MalformedProtobuf extends Error {}

/**
 * Decodes a message. Fields that the table does not have are skipped. A field that is repeated has its last value, maps
 * have all entries.
 * @returns the fields that the message has, in its order
 * @throws MalformedProtobuf
 */
export function decodeMessage(fields: Fields, bytes: Buffer): Record<string, unknown> {
  try {
    const reader = new BinaryReader(bytes)
    return readMessage(reader, numbered(fields), reader.len)
  } catch (error) {
    throw new MalformedProtobuf(error instanceof Error ? error.message : String(error))
  }
}

/**
 * The messages in bytes, each with its length before it, one at a time.
 * @throws MalformedProtobuf at one that is not complete
 */
export function* delimitedIn(bytes: Buffer): Generator<Buffer> {
  for (let start = 0; start < bytes.length; ) {
    // A length has at most 5 bytes; a larger part would be decoded in vain.
    const reader = new BinaryReader(bytes.subarray(start, start + 5))
    let length: number
    try {
      length = reader.uint32()
    } catch {
      throw new MalformedProtobuf('the length of a command is malformed')
    }
    const end = start + reader.pos + length
    if (end > bytes.length) {
      throw new MalformedProtobuf(`a command of ${length} bytes is not complete`)
    }
    yield bytes.subarray(start + reader.pos, end)
    start = end
  }
}

/** A table by the numbers of its fields, made once for each table. */
type Numbered = Map<number, { name: string; type: FieldType }>
const tables = new WeakMap<Fields, Numbered>()

function numbered(fields: Fields): Numbered {
  let table = tables.get(fields)
  if (table === undefined) {
    table = new Map(Object.entries(fields).map(([name, [number, type]]) => [number, { name, type }]))
    tables.set(fields, table)
  }
  return table
}

/** @param end where the message ends. The tables have no end in themselves, so the recursion has one. */
function readMessage(reader: BinaryReader, table: Numbered, end: number): Record<string, unknown> {
  const values: Record<string, unknown> = {}
  while (reader.pos < end) {
    const [number, wireType] = reader.tag()
    const field = table.get(number)
    if (field === undefined) {
      reader.skip(wireType, number)
      continue
    }
    const { name, type } = field
    if (wireType !== wireTypeOf(type)) throw new Error(`field ${number} has the wire type ${wireType}`)
    if (typeof type === 'object' && 'map' in type) addEntry(values, name, readDelimited(reader, type.map))
    else values[name] = readField(reader, type)
  }
  if (reader.pos > end) throw new Error('a field is longer than its message')
  return values
}

function addEntry(
  values: Record<string, unknown>,
  name: string,
  { key = '', value = {} }: Record<string, unknown>
) {
  // Without a prototype, because a key may be `__proto__`.
  values[name] ??= Object.create(null)
  // Keys of maps are texts, and this map was made above.
  ;(values[name] as Record<string, unknown>)[key as string] = value
}

function readDelimited(reader: BinaryReader, fields: Fields): Record<string, unknown> {
  const length = reader.uint32()
  const end = reader.pos + length
  if (end > reader.len) throw new Error('a message is not complete')
  return readMessage(reader, numbered(fields), end)
}

function readField(reader: BinaryReader, type: Exclude<FieldType, { map: Fields }>): unknown {
  if (typeof type === 'object') return readDelimited(reader, type.message)
  switch (type) {
    case 'string':
      return reader.string(true)
    case 'uint32':
    case 'int32':
    case 'bool':
      return reader[type]()
    case 'uint64':
      // It is not exact beyond 2^53, where no position is.
      return Number(reader.uint64())
    default:
      return reader.bytes()
  }
}

function wireTypeOf(type: FieldType): WireType {
  switch (type) {
    case 'uint32':
    case 'int32':
    case 'uint64':
    case 'bool':
      return WireType.Varint
    default:
      return WireType.LengthDelimited
  }
}
