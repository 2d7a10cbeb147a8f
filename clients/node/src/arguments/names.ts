/** Names of features as people write them: `0-MLP-OAI:22631`, `2:553`. */

import type { FeatureId } from '../gen/saeserve/v1/types_pb.js'
import { shown, whole } from './numbers.js'

/** The name of one feature. */
export type FeatureIdInit = { source: string; index: number }

type Named = { feature?: FeatureId | undefined }
type WithFacts = { facts?: Named | undefined }

/** Whatever stands for one feature: a written name in any case, its source and index, or what an answer has of it. */
export type FeatureLike = string | FeatureIdInit | Named | WithFacts

/** The wire's name: the source in lower case. Throws TypeError and RangeError for what is no feature. */
export function featureId(value: FeatureLike, what = 'feature'): FeatureIdInit {
  if (typeof value === 'string') return parsed(value, what)
  if (typeof value === 'object' && value !== null) {
    if ('facts' in value && value.facts) return featureId(value.facts, what)
    if ('feature' in value && value.feature) return featureId(value.feature, what)
    if ('source' in value && 'index' in value && typeof value.source === 'string') {
      return { source: value.source.toLowerCase(), index: whole(value.index, `${what}.index`) }
    }
  }
  throw new TypeError(`${what} is ${shown(value)}: expected a name like '0-MLP-OAI:22631'`)
}

/** The name as people write it. */
export function featureName(value: FeatureLike): string {
  const { source, index } = featureId(value)
  return `${source.toUpperCase()}:${index}`
}

function parsed(name: string, what: string): FeatureIdInit {
  const found = /^\s*([^\s,]+):(\d{1,10})\s*$/.exec(name)
  if (!found) {
    throw new TypeError(
      `${what} ${shown(name)} is no feature: expected 'source:index' like '0-MLP-OAI:22631' or '2:553'`,
    )
  }
  return { source: found[1]!.toLowerCase(), index: whole(Number(found[2]), `the index of ${shown(name)}`) }
}
