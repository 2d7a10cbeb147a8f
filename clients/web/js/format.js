// Numbers, tokens and names as people read them.

/** An activation or another value: three decimals. */
export function value(number) {
  return number === undefined || number === null ? '–' : Number(number).toFixed(3)
}

/** A share, as a percentage of three digits. */
export function share(number) {
  if (number === undefined || number === null) return '–'
  if (number === 0) return '0%'
  return `${Number((number * 100).toPrecision(3))}%`
}

/** A whole number with separators. ProtoJSON writes those of 64 bits as texts. */
export function whole(number) {
  return Number(number).toLocaleString('en')
}

/** How long something took, in milliseconds, from microseconds. */
export function millis(micros) {
  const ms = Number(micros) / 1000
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`
}

/** What a table says of a name that was written elsewhere; undefined of others, `constructor` among them. */
export function entry(table, name) {
  return Object.hasOwn(table, name) ? table[name] : undefined
}

/** `0-demo:1633` of a FeatureId. */
export function featureName(id) {
  return `${id.source}:${id.index ?? 0}`
}

/** A FeatureId of a written name; null where it is none. */
export function featureId(name) {
  const found = /^\s*([^:\s]+):(\d{1,9})\s*$/.exec(name)
  return found ? { source: found[1], index: Number(found[2]) } : null
}

// Characters that show nothing, or change the direction of those that do.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g

/** A text of which nothing is invisible or turns the rest round: what would be is shown by its number. */
export function visible(text) {
  return text.replace(INVISIBLE, (char) => `\\u{${char.codePointAt(0).toString(16)}}`)
}

/** A token where its spaces matter: a leading or trailing one as `·`. */
export function spaced(display) {
  return visible(display).replace(/^ +| +$/g, (spaces) => '·'.repeat(spaces.length))
}
