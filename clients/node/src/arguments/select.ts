/** Which features: from names, ranges and kinds as people write them to the wire's filter. */

import type { MessageInitShape } from '@bufbuild/protobuf'
import type { FeatureSelectorSchema, FilterSchema, LayerRangeSchema } from '../gen/saeserve/v1/feature_service_pb.js'
import { FeatureKind } from '../gen/saeserve/v1/types_pb.js'
import { text } from './inputs.js'
import { featureId, type FeatureLike } from './names.js'
import { numberIfAny, shown, whole } from './numbers.js'

export type OneOrMore<T> = T | readonly T[]
export type Kind = 'latent' | 'neuron' | 'all'

/** Which features take part in a call. */
export interface FilterOptions {
  /** `'latent'`, `'neuron'` or `'all'`. Unset in `search`: latents if any are loaded, else neurons. */
  kinds?: OneOrMore<Kind>
  /** Features of these sets, for example `'mlp-oai'`. */
  sets?: OneOrMore<string>
  /** Features of these sources, by id or alias; a number is the layer of neurons, whose id it is. */
  sources?: OneOrMore<string | number>
  /** A number, a range with both ends included (`'1-3'`), several with commas (`'0,2-4'`), or several in an array. */
  layers?: OneOrMore<number | string>
  /** Just these features. */
  features?: OneOrMore<FeatureLike>
  /** Features in any that is named by `exclude…` are left out. */
  excludeKinds?: OneOrMore<Kind>
  excludeSets?: OneOrMore<string>
  excludeSources?: OneOrMore<string | number>
  excludeLayers?: OneOrMore<number | string>
  excludeFeatures?: OneOrMore<FeatureLike>
  /** Features fire on at least this share of tokens, 0 to 1. */
  minDensity?: number
  /** Features fire on at most this share of tokens: leaves out, before the top K, those that fire on everything. */
  maxDensity?: number
}

type Selector = MessageInitShape<typeof FeatureSelectorSchema>

const KINDS: Record<Kind, FeatureKind[]> = {
  latent: [FeatureKind.LATENT],
  neuron: [FeatureKind.NEURON],
  all: [FeatureKind.LATENT, FeatureKind.NEURON],
}

/** The filter, undefined where nothing is restricted. Throws TypeError and RangeError. */
export function filter(by: FilterOptions): MessageInitShape<typeof FilterSchema> | undefined {
  const include = selector(by.kinds, by.sets, by.sources, by.layers, by.features)
  for (const name of ['kinds', 'sets', 'sources', 'layers', 'features'] as const) {
    // On the wire nothing named would mean everything, the opposite of what it says.
    if (by[name] !== undefined && include[name]?.length === 0) {
      throw new TypeError(`${name} names nothing; leave it out to restrict nothing`)
    }
  }
  const exclude = selector(by.excludeKinds, by.excludeSets, by.excludeSources, by.excludeLayers, by.excludeFeatures)
  const made = {
    include: asked(include),
    exclude: asked(exclude),
    minDensity: numberIfAny(by.minDensity, 'minDensity'),
    maxDensity: numberIfAny(by.maxDensity, 'maxDensity'),
  }
  return Object.values(made).some((part) => part !== undefined) ? made : undefined
}

/** Ids of sources or sets, lower-case as they go over the wire. */
export function names(values: OneOrMore<string | number> | undefined, what: string): string[] {
  return list(values).map((value, place) =>
    typeof value === 'number'
      ? String(whole(value, `${what}[${place}]`))
      : text(value, `${what}[${place}]`).toLowerCase(),
  )
}

/** Names of features for the wire. */
export function features(values: OneOrMore<FeatureLike> | undefined, what = 'features') {
  return list(values).map((value, place) => featureId(value, `${what}[${place}]`))
}

/** The value of a name. Throws TypeError for one that is none of them. */
export function oneOf<T>(values: Readonly<Record<string, T>>, name: unknown, what: string): T {
  if (typeof name !== 'string' || !Object.hasOwn(values, name)) {
    throw new TypeError(`${what} is ${shown(name)}, none of ${Object.keys(values).join(', ')}`)
  }
  return values[name]!
}

/** One value, several or none, as an array. */
export function list<T>(values: OneOrMore<T> | undefined): readonly T[] {
  if (values === undefined) return []
  return Array.isArray(values) ? values : [values as T]
}

function selector(
  kinds: FilterOptions['kinds'],
  sets: FilterOptions['sets'],
  sources: FilterOptions['sources'],
  layers: FilterOptions['layers'],
  chosen: FilterOptions['features'],
): Selector {
  return {
    kinds: [...new Set(list(kinds).flatMap((kind) => oneOf(KINDS, kind, 'kinds')))],
    sets: names(sets, 'sets'),
    sources: names(sources, 'sources'),
    layers: list(layers).flatMap(ranges),
    features: features(chosen),
  }
}

function asked(by: Selector): Selector | undefined {
  return Object.values(by).some((part) => Array.isArray(part) && part.length > 0) ? by : undefined
}

function ranges(value: number | string): MessageInitShape<typeof LayerRangeSchema>[] {
  if (typeof value === 'number') {
    const layer = whole(value, 'layers')
    return [{ first: layer, last: layer }]
  }
  return text(value, 'layers')
    .split(',')
    .map((part) => {
      const found = /^\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?$/.exec(part)
      const first = Number(found?.[1])
      const last = Number(found?.[2] ?? found?.[1])
      if (!(first <= last))
        throw new TypeError(`layers: ${shown(part)} is no layer and no range: expected '3' or '1-3'`)
      return { first, last }
    })
}
