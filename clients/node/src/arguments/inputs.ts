/** Texts to send: each a text or its token ids. */

import type { MessageInitShape } from '@bufbuild/protobuf'
import type { InputSchema } from '../gen/saeserve/v1/types_pb.js'
import { shown, whole } from './numbers.js'

/** A text, or token ids. */
export type TextLike = string | readonly number[] | Uint32Array

export type InputInit = MessageInitShape<typeof InputSchema>

/** A text that UTF-8 can carry. Throws TypeError for what is none; half of a surrogate pair would be sent as U+FFFD. */
export function text(value: unknown, what: string): string {
  if (typeof value !== 'string') throw new TypeError(`${what} is ${shown(value)}, not a text`)
  if (!value.isWellFormed()) throw new TypeError(`${what} is not Unicode: it holds half of a surrogate pair`)
  return value
}

/** One text, or token ids. Throws TypeError and RangeError, naming it by `what`. */
export function oneInput(value: TextLike, what: string): InputInit {
  if (typeof value === 'string') return { input: { case: 'text', value: text(value, what) } }
  if (!Array.isArray(value) && !(value instanceof Uint32Array)) {
    throw new TypeError(`${what} is ${shown(value)}: expected a text, or token ids in an array`)
  }
  const ids = Array.from(value, (id, place) => whole(id, `${what}[${place}]`))
  return { input: { case: 'tokenIds', value: { ids } } }
}

/** One text, or several. An array of numbers would be one text's token ids, and is refused where several are meant. */
export function several(values: string | Iterable<TextLike>, what: string): InputInit[] {
  if (typeof values === 'string') return [oneInput(values, what)]
  return [...each(values, what)].map((value, place) => oneInput(value, `${what}[${place}]`))
}

/** Something to take texts from. Throws TypeError for what iterates over something else. */
export function each(values: Iterable<TextLike>, what: string): Iterable<TextLike> {
  if (typeof values === 'string' || typeof values?.[Symbol.iterator] !== 'function') {
    throw new TypeError(`${what} is ${shown(values)}: give several texts in an array`)
  }
  return values
}
