// How many of the features that fire most on a text do so on a token on which they usually fire: one search for each
// layer and kind. The model reads the text for the first; the others are ranked from what the server kept.

import { call } from '../api.js'
import { requestOf } from './state.js'

/** Searches that are under way at a time, after the first. */
const AT_A_TIME = 4

export const KIND_NAMES = { latent: 'FEATURE_KIND_LATENT', neuron: 'FEATURE_KIND_NEURON' }

/** Every layer and kind that is served: `[{layer, kind}]`, by layer, latents first. */
export function parts(sources) {
  const layers = [...new Set(sources.map((one) => one.layer))].sort((a, b) => a - b)
  return layers.flatMap((layer) =>
    Object.keys(KIND_NAMES)
      .filter((kind) => sources.some((one) => one.layer === layer && one.kind === KIND_NAMES[kind]))
      .map((kind) => ({ layer, kind })),
  )
}

/**
 * Counts one answer: `{layer, kind, features, exact, folded, unknown, matched, truncated, tokens}`. `features` is how
 * many fire at all, at most the limit; `matched` those on a usual token whatever its case and the space around it;
 * `unknown` those of which no usual token is known.
 */
export function count({ layer, kind }, answer) {
  const of = (match) => answer.results.filter((one) => one.match === match).length
  const [exact, folded] = [of('MATCH_EXACT'), of('MATCH_FOLDED')]
  return {
    layer,
    kind,
    features: answer.results.length,
    exact,
    folded,
    unknown: of('MATCH_UNKNOWN'),
    matched: exact + folded,
    truncated: answer.truncated,
    tokens: answer.tokens.length,
  }
}

/**
 * Searches all parts of `state`; `counted(row)` is called for each, in any order. Rejects with the first error, after
 * which nothing more is asked.
 */
export async function countAll(state, sources, counted, signal) {
  const waiting = parts(sources)
  const failed = new AbortController()
  const either = AbortSignal.any([signal, failed.signal])
  const one = async (part) => {
    const body = requestOf({ ...state, kind: part.kind, layers: [part.layer] }, sources)
    try {
      const answer = await call('search', body, { signal: either })
      either.throwIfAborted()
      counted(count(part, answer))
    } catch (error) {
      failed.abort() // the others
      throw error
    }
  }
  if (waiting.length) await one(waiting.shift())
  const worker = async () => {
    while (waiting.length) await one(waiting.shift())
  }
  await Promise.all(Array.from({ length: AT_A_TIME }, worker))
}
