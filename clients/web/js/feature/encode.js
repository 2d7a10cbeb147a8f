// How strongly chosen features fire on some texts.

import { call } from '../api.js'

/**
 * `features` are FeatureIds. Resolves to a list, for each text `{tokens, truncated, columns}`:
 * `columns[feature][token]` are activations. Texts over the limit are cut, and say so.
 */
export async function encode(texts, features, { signal } = {}) {
  const answer = await call('encode', { inputs: texts.map((text) => ({ text })), features, truncate: true }, { signal })
  return answer.texts.map((text, place) => {
    const rows = answer.dense.data.slice(answer.textOffsets[place], answer.textOffsets[place + 1])
    return {
      tokens: text.tokens,
      truncated: text.truncated,
      columns: features.map((_, column) => rows.map((row) => row[column])),
    }
  })
}

/** Where activations are largest: `{value, place}`; null where none is above 0. */
export function peak(activations) {
  let place = -1
  activations.forEach((value, at) => {
    if (value > 0 && (place < 0 || value > activations[place])) place = at
  })
  return place < 0 ? null : { value: activations[place], place }
}

/** The bytes of tokens as a text. A character that is cut at either end is left out: it is not known. */
export function written(tokens) {
  const bytes = tokens.flatMap(({ piece }) => Array.from(atob(piece ?? ''), (char) => char.charCodeAt(0)))
  let [first, last] = [0, bytes.length]
  while (first < last && (bytes[first] & 0xc0) === 0x80) first++
  for (let back = 1; back <= Math.min(4, last - first); back++) {
    const byte = bytes[last - back]
    if ((byte & 0xc0) === 0x80) continue
    const length = byte < 0x80 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2
    if (length > back) last -= back
    break
  }
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(new Uint8Array(bytes.slice(first, last)))
}
