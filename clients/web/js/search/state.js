// What a search asks for, as the page's address says it, and as the contract does.

import { address, count } from '../address.js'
import { featureId } from '../format.js'
import { layerRanges, parseLayers, writeLayers } from './layers.js'

export const KINDS = {
  latent: ['FEATURE_KIND_LATENT'],
  neuron: ['FEATURE_KIND_NEURON'],
  both: ['FEATURE_KIND_LATENT', 'FEATURE_KIND_NEURON'],
}
export const RANKINGS = { raw: 'RANKING_RAW', relative: 'RANKING_RELATIVE_TO_MAX', surprisal: 'RANKING_SURPRISAL' }

/** How many features are asked for where the address does not say: of a text, and of each token. */
export const LIMITS = { text: 25, token: 5 }

const whole = (text) => (/^\d{1,7}$/.test(text) ? Number(text) : null)
const share = (text) => (text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : null)
const oneOf = (known) => (text) => (Object.hasOwn(known, text) ? text : null)
const rows = (text) =>
  /^\d{1,7}(,\d{1,7})*$/.test(text) ? [...new Set(text.split(',').map(Number))].sort((a, b) => a - b) : null

// Key of the address: what it is read with, null for what cannot be read, and what it is where it is left out.
const READ = {
  kind: [oneOf(KINDS), ''],
  layers: [parseLayers, []],
  min: [share, null],
  max: [share, null],
  ranking: [oneOf(RANKINGS), 'raw'],
  fires: [whole, null],
  by: [oneOf({ token: 1 }), 'text'],
  sort: [rows, []],
  whole: [oneOf({ 1: 1 }), ''],
}
const LISTS = ['set', 'not', 'pick']

/**
 * The state that an address names: `text`, `kind` (empty: the server's default), `layers`, `set` (names of sets), `min`
 * and `max` (density, 0 to 1), `ranking`, `fires`, `limit`, `by`, `sort` (rows), `whole` (texts are shown whole), `not`
 * (features left out), `pick` (features chosen to compare). `unread`: parts of the address that cannot be read.
 * `limits` are the server's.
 */
export function readState(params, limits) {
  const state = { text: params.get('text') ?? '', unread: [] }
  for (const [key, [read, unset]] of Object.entries(READ)) {
    const written = params.get(key)
    const value = written === null ? unset : read(written)
    if (value === null && written !== null) state.unread.push(`${key}=${written}`)
    state[key] = value ?? unset
  }
  state.limit = count(params, 'limit', state.unread, { unset: null, most: limits.maxLimit })
  for (const key of LISTS) state[key] = [...new Set(params.getAll(key))]
  const named = (name) => featureId(name) !== null
  for (const key of ['not', 'pick']) {
    state.unread.push(...state[key].filter((name) => !named(name)).map((name) => `${key}=${name}`))
    state[key] = state[key].filter(named)
  }
  return state
}

/** The address of a state; what is as usual is left out. */
export function stateAddress(state) {
  return address('search', '', {
    text: state.text,
    kind: state.kind,
    layers: writeLayers(state.layers ?? []),
    set: state.set,
    min: state.min,
    max: state.max,
    not: state.not,
    ranking: state.ranking === 'raw' ? '' : state.ranking,
    fires: state.fires,
    limit: state.limit === LIMITS[state.by ?? 'text'] ? '' : state.limit,
    by: state.by === 'token' ? 'token' : '',
    sort: (state.sort ?? []).join(','),
    whole: state.whole,
    pick: state.pick,
  })
}

/** How many features are asked for. */
export function limitOf(state) {
  return state.limit ?? LIMITS[state.by]
}

/** Which kind a state means: a server without SAEs is asked for neurons. */
export function kindOf(state, sources) {
  return state.kind || (sources.some((one) => one.kind === 'FEATURE_KIND_LATENT') ? 'latent' : 'neuron')
}

/** The SearchRequest of a state. A text that is too long is cut, and the answer says so. */
export function requestOf(state, sources) {
  const kind = kindOf(state, sources)
  // Sets are of latents: who asks for both kinds and one set of latents does not mean to leave the neurons out.
  const sets = state.set.length && kind === 'both' ? [...new Set([...state.set, 'neurons'])] : state.set
  const filter = {
    include: { kinds: KINDS[kind], sets: kind === 'neuron' ? [] : sets, layers: layerRanges(state.layers) },
    exclude: { features: state.not.map(featureId) },
  }
  if (state.min !== null) filter.minDensity = state.min
  if (state.max !== null) filter.maxDensity = state.max
  const request = {
    input: { text: state.text },
    filter,
    ranking: RANKINGS[state.ranking],
    limit: limitOf(state),
    byToken: state.by === 'token',
    sortTokens: state.sort.map((position) => ({ position })),
    truncate: true,
  }
  if (state.fires !== null && state.ranking !== 'raw') request.minFires = state.fires
  return request
}
