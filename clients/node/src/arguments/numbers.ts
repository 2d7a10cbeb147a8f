/** What a whole number is, what a share, and what a timeout. */

export const MAX_UINT32 = 2 ** 32 - 1

/** A value as it stands in an error: short. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
  if (typeof value === 'bigint') return `${value}n`
  if (value === null || typeof value !== 'object') return String(value)
  return Array.isArray(value) ? 'an array' : `an object of ${value.constructor?.name ?? 'no class'}`
}

/** Throws TypeError for what is no whole number, RangeError for one that does not fit. */
export function whole(value: unknown, what: string, least = 0, most = MAX_UINT32): number {
  if (typeof value !== 'number' || !Number.isInteger(value)) {
    throw new TypeError(`${what} is ${shown(value)}, not a whole number`)
  }
  if (value < least || value > most) throw new RangeError(`${what} is ${value}, out of range: ${least} to ${most}`)
  return value
}

/** The same where leaving it out means the server's default. */
export function wholeIfAny(value: unknown, what: string): number | undefined {
  return value === undefined ? undefined : whole(value, what)
}

/** A number, whole or not; its range is the server's to judge. Throws TypeError. */
export function numberIfAny(value: unknown, what: string): number | undefined {
  if (value === undefined) return undefined
  if (typeof value !== 'number') throw new TypeError(`${what} is ${shown(value)}, not a number`)
  return value
}

/** True or false, false by default. Throws TypeError for anything else: a text 'no' would count as yes. */
export function flag(value: unknown, what: string): boolean {
  if (value === undefined) return false
  if (typeof value !== 'boolean') throw new TypeError(`${what} is ${shown(value)}, not true or false`)
  return value
}

/** Milliseconds above 0; Infinity for no limit. Throws TypeError and RangeError. */
export function milliseconds(value: unknown, what = 'timeoutMs'): number {
  if (typeof value !== 'number') throw new TypeError(`${what} is ${shown(value)}, not a number of milliseconds`)
  if (!(value > 0)) throw new RangeError(`${what} is ${value}: expected milliseconds above 0, or Infinity for no limit`)
  return value
}

/** Numbers in one dimension. */
export type VectorLike = readonly number[] | Float32Array | Float64Array

/** Whether this is one, whatever is in it. */
export function isVector(value: unknown): value is VectorLike {
  return Array.isArray(value) || value instanceof Float32Array || value instanceof Float64Array
}

/** Numbers as the wire takes them; how many, and how large, is the server's to judge. Throws TypeError. */
export function vector(value: unknown, what: string): number[] {
  if (!isVector(value)) throw new TypeError(`${what} is ${shown(value)}, not numbers in an array`)
  return Array.from(value, (one, place) => {
    if (typeof one !== 'number' || !Number.isFinite(Math.fround(one))) {
      throw new TypeError(`${what}[${place}] is ${shown(one)}: no finite float32`)
    }
    return one
  })
}
