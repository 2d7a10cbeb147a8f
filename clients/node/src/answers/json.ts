/** Answers as JSON: the contract's ProtoJSON, defaults printed, numbers as `saeserve` and the gateway write them. */

import { type DescMessage, type Message, type MessageShape, ScalarType, toJson } from '@bufbuild/protobuf'

type Json = Record<string, unknown>

/** What is done to messages of one type. No map of the contract holds messages, or floats. */
interface Plan {
  toJSON: PropertyDescriptor
  inner: { name: string; oneof: string | undefined; message: DescMessage }[]
}

const plans = new Map<DescMessage, Plan>()

/** A message, defaults printed, 64-bit counts as strings, bytes in base64. */
export function protoJson<D extends DescMessage>(schema: D, message: MessageShape<D>): Json {
  return shortened(schema, toJson(schema, message, { alwaysEmitImplicit: true }) as Json)
}

/**
 * The message, of which JSON.stringify now writes ProtoJSON, and of each message in it. It would refuse their bigints.
 *
 * Messages are plain objects without a class that could hold `toJSON`; it is not seen when iterating or comparing.
 */
export function printable<D extends DescMessage>(schema: D, message: MessageShape<D>): MessageShape<D> {
  const { toJSON, inner } = plans.get(schema) ?? plan(schema)
  Object.defineProperty(message, 'toJSON', toJSON)
  for (const { name, oneof, message: type } of inner) {
    const value = oneof === undefined ? field(message, name) : chosen(message, oneof, name)
    if (Array.isArray(value)) for (const one of value) printable(type, one)
    else if (value !== undefined) printable(type, value as Message)
  }
  return message
}

/**
 * A float32 as the number with the shortest decimal form that reads back as the same float32: 0.1 and not
 * 0.10000000149011612. NaN and infinities by name, as ProtoJSON has it.
 */
export function shortest(value: number): number | string {
  if (!Number.isFinite(value)) return String(value)
  for (let digits = 6; digits < 9; digits++) {
    const tried = Number(value.toPrecision(digits))
    if (Math.fround(tried) === value) return tried
  }
  return Number(value.toPrecision(9)) // nine digits always do
}

function plan(schema: DescMessage): Plan {
  function json(this: Message): Json {
    return protoJson(schema, this)
  }
  const made: Plan = {
    toJSON: { value: json, enumerable: false, configurable: true },
    inner: schema.fields.flatMap(({ localName, oneof, message, fieldKind }) =>
      message && fieldKind !== 'map' ? [{ name: localName, oneof: oneof?.localName, message }] : [],
    ),
  }
  plans.set(schema, made)
  return made
}

function shortened(schema: DescMessage, json: Json): Json {
  for (const { jsonName, scalar, message, fieldKind } of schema.fields) {
    const value = json[jsonName]
    if (value === undefined || fieldKind === 'map') continue
    if (scalar === ScalarType.FLOAT) json[jsonName] = Array.isArray(value) ? value.map(short) : short(value)
    else if (message) for (const one of Array.isArray(value) ? value : [value]) shortened(message, one)
  }
  return json
}

/** What is no number by now is NaN or an infinity by name. */
function short(value: unknown): unknown {
  return typeof value === 'number' ? shortest(value) : value
}

function field(message: Message, name: string): unknown {
  return (message as unknown as Json)[name]
}

function chosen(message: Message, oneof: string, name: string): unknown {
  const value = field(message, oneof) as { case: string | undefined; value?: unknown }
  return value.case === name ? value.value : undefined
}
