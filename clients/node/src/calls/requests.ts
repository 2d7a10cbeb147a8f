/**
 * Requests from friendly arguments: one function for each method, and the only place where its arguments are listed.
 *
 * Arguments that the wire cannot carry throw TypeError or RangeError here; all others are judged by the server.
 */

import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { flag, isVector, numberIfAny, vector, type VectorLike, wholeIfAny } from '../arguments/numbers.js'
import { each, oneInput, several, text, type TextLike } from '../arguments/inputs.js'
import { featureId, type FeatureLike } from '../arguments/names.js'
import { features, filter, type FilterOptions, list, names, type OneOrMore, oneOf } from '../arguments/select.js'
import * as wire from '../gen/saeserve/v1/feature_service_pb.js'
import { Diversity, RecordGroup, RecordOrigin } from '../gen/saeserve/v1/types_pb.js'
import type { Headers } from '../transport/headers.js'

/** What every call takes. */
export interface CallOptions {
  /** The served model's name; only for servers that must not answer for another. */
  model?: string
  /** Milliseconds for the call in all, retries included; Infinity for no limit. By default the client's. */
  timeoutMs?: number
  /** Ends the call: it rejects with the signal's reason. */
  signal?: AbortSignal
  /** Headers beside the client's own. */
  metadata?: Headers
  /** Names the call in the server's log; by default one is made up. */
  requestId?: string
}

const RANKINGS = {
  raw: wire.Ranking.RAW,
  relative: wire.Ranking.RELATIVE_TO_MAX,
  surprisal: wire.Ranking.SURPRISAL,
}
const SIMILARITIES = {
  decoder: wire.Similarity.DECODER,
  encoder: wire.Similarity.ENCODER,
  firing: wire.Similarity.FIRING,
  records: wire.Similarity.RECORDS,
}
const GROUPS = {
  top: RecordGroup.UNSPECIFIED, // a default is left unset, as a caller in another language would leave it
  quantiles: RecordGroup.QUANTILES,
  random: RecordGroup.RANDOM,
  'near-misses': RecordGroup.NEAR_MISSES,
}
const DIVERSITIES = {
  none: Diversity.UNSPECIFIED,
  token: Diversity.TOKEN,
  'folded-token': Diversity.FOLDED_TOKEN,
  phrase: Diversity.PHRASE,
  sentence: Diversity.SENTENCE,
  text: Diversity.TEXT,
  semantic: Diversity.SEMANTIC,
}
const SIDES = {
  both: wire.VectorSide.UNSPECIFIED,
  encoder: wire.VectorSide.ENCODER,
  decoder: wire.VectorSide.DECODER,
}
const SORT_BOS = { token: { case: 'bos', value: true } } as const
const ORIGINS = { index: RecordOrigin.INDEX, import: RecordOrigin.IMPORT }

export interface SearchOptions extends FilterOptions, CallOptions {
  /** Rank by the sum over these tokens: a number is a position, a text finds every run of tokens that reads so. */
  sort?: OneOrMore<string | number>
  /** `'raw'`, `'relative'` to each feature's maximum over the index, or `'surprisal'` in bits. */
  ranking?: keyof typeof RANKINGS
  /** With the latter two: features that fire on fewer tokens of the index do not rank; default 10. */
  minFires?: number
  /** How many features, for the text or for each token: 1 to 1000, default 25. */
  limit?: number
  /** The top features of each token instead of the text's. */
  byToken?: boolean
  /** Add a leading row for the BOS token, which does not rank. */
  includeBos?: boolean
  /** Add that row and let it rank like others, as do BOS tokens inside the text. */
  rankBos?: boolean
  /** Sort by that row too; needs `rankBos`. */
  sortBos?: boolean
  /** Cut a text that is too long instead of refusing it. */
  truncate?: boolean
}

export function search(given: TextLike, by: SearchOptions) {
  return create(wire.SearchRequestSchema, {
    ...common(by),
    input: oneInput(given, 'text'),
    filter: filter(by),
    sortTokens: [...list(by.sort).map(sortToken), ...(flag(by.sortBos, 'sortBos') ? [SORT_BOS] : [])],
    ranking: oneOf(RANKINGS, by.ranking ?? 'raw', 'ranking'),
    minFires: wholeIfAny(by.minFires, 'minFires'),
    limit: wholeIfAny(by.limit, 'limit'),
    byToken: flag(by.byToken, 'byToken'),
    includeBos: flag(by.includeBos, 'includeBos'),
    rankBos: flag(by.rankBos, 'rankBos'),
    truncate: flag(by.truncate, 'truncate'),
  })
}

/** A vector at a hook point that a served source reads, by the hook point's exact name. */
export interface Projection {
  hookName: string
  vector: VectorLike
}

/** The same as `vectors` answers it. */
export interface Direction {
  hookName: string
  values: VectorLike
}

export interface EncodeOptions extends CallOptions {
  /** All latents of these SAEs, sparse. Either this, or `features`, `projections` or both. */
  sources?: OneOrMore<string | number>
  /** Just these features, dense, in this order. */
  features?: OneOrMore<FeatureLike>
  /** Products of the model's activations at a hook point with a vector as wide, a column each, after the features. */
  projections?: readonly (Projection | Direction)[]
  /** Add a leading row for each text's BOS token. */
  includeBos?: boolean
  /** Cut texts that are too long instead of refusing them. */
  truncate?: boolean
  /** Leave the tokens out of the answer. */
  omitTokens?: boolean
}

export function encode(texts: string | Iterable<TextLike>, by: EncodeOptions) {
  return create(wire.EncodeRequestSchema, { ...encoding(by), inputs: several(texts, 'texts') })
}

export function streamConfig(by: EncodeOptions) {
  return create(wire.EncodeStreamConfigSchema, encoding(by))
}

function encoding(by: EncodeOptions) {
  return {
    ...common(by),
    sources: names(by.sources, 'sources'),
    features: features(by.features),
    projections: (by.projections ?? []).map((one, place) => ({
      hookName: text(one.hookName, `projections[${place}].hookName`),
      vector: vector('values' in one ? one.values : one.vector, `projections[${place}].vector`),
    })),
    includeBos: flag(by.includeBos, 'includeBos'),
    truncate: flag(by.truncate, 'truncate'),
    omitTokens: flag(by.omitTokens, 'omitTokens'),
  }
}

export interface RecordOptions extends CallOptions {
  /** The strongest; a sample of each power of two; that sample in random order; or usual tokens without activation. */
  group?: keyof typeof GROUPS
  /** What makes two records the same, so that one stands for both. */
  diversity?: keyof typeof DIVERSITIES
  /** For phrase, sentence, text and semantic: from what overlap on; over 0, at most 1, default 0.5. */
  threshold?: number
  /** By default the index's, or where it has none of the source, imported ones. */
  origin?: keyof typeof ORIGINS
  /** How many records a page: 1 to 100, default 10. */
  pageSize?: number
}

export interface TopActivationsOptions extends RecordOptions {
  /** `nextPageToken` of the page before; `iterTopActivations` follows them. */
  pageToken?: string
}

export function topActivations(feature: FeatureLike, by: TopActivationsOptions) {
  return create(wire.TopActivationsRequestSchema, {
    ...common(by),
    feature: featureId(feature),
    group: oneOf(GROUPS, by.group ?? 'top', 'group'),
    diversity: oneOf(DIVERSITIES, by.diversity ?? 'none', 'diversity'),
    threshold: numberIfAny(by.threshold, 'threshold'),
    origin: by.origin === undefined ? RecordOrigin.UNSPECIFIED : oneOf(ORIGINS, by.origin, 'origin'),
    pageSize: wholeIfAny(by.pageSize, 'pageSize'),
    pageToken: text(by.pageToken ?? '', 'pageToken'),
  })
}

export function listSources(by: CallOptions) {
  return create(wire.ListSourcesRequestSchema, common(by))
}

export function getFeature(feature: FeatureLike, by: CallOptions) {
  return create(wire.GetFeatureRequestSchema, { ...common(by), feature: featureId(feature) })
}

export interface VectorsOptions extends CallOptions {
  /** What the feature reads, what it writes, or both, the default. One that it lacks is refused. */
  side?: keyof typeof SIDES
}

export function vectors(feature: FeatureLike, by: VectorsOptions) {
  const side = oneOf(SIDES, by.side ?? 'both', 'side')
  return create(wire.GetVectorsRequestSchema, { ...common(by), feature: featureId(feature), side })
}

export function tokenize(given: TextLike, by: CallOptions) {
  return create(wire.TokenizeRequestSchema, { ...common(by), input: oneInput(given, 'text') })
}

export function serverInfo() {
  return create(wire.GetServerInfoRequestSchema)
}

export interface SimilarOptions extends FilterOptions, CallOptions {
  /** Cosine of what features write to or read from the residual stream, or overlap of where they fire. */
  by?: keyof typeof SIMILARITIES
  /** How many: 1 to 1000, default 10. */
  limit?: number
}

export function similar(to: FeatureLike | VectorLike, by: SimilarOptions) {
  return create(wire.SimilarFeaturesRequestSchema, {
    ...common(by),
    ...(isVector(to) ? { vector: vector(to, 'vector') } : { feature: featureId(to) }),
    by: oneOf(SIMILARITIES, by.by ?? 'decoder', 'by'),
    filter: filter(by),
    limit: wholeIfAny(by.limit, 'limit'),
  })
}

export interface ExplanationOptions extends FilterOptions, CallOptions {
  /** How many a page: 1 to 100, default 10. */
  pageSize?: number
  /** `nextPageToken` of the page before. */
  pageToken?: string
}

export function searchExplanations(query: string, by: ExplanationOptions) {
  return create(wire.SearchExplanationsRequestSchema, {
    ...common(by),
    query: text(query, 'query'),
    filter: filter(by),
    pageSize: wholeIfAny(by.pageSize, 'pageSize'),
    pageToken: text(by.pageToken ?? '', 'pageToken'),
  })
}

export interface ContrastOptions extends FilterOptions, CallOptions {
  /** How many features of each side: 1 to 1000, default 25. */
  limit?: number
  /** Cut texts that are too long instead of refusing them. */
  truncate?: boolean
}

/** All messages of a Contrast: they are kept, to be sent again where the server cannot answer yet. */
export function contrast(a: Iterable<TextLike>, b: Iterable<TextLike>, by: ContrastOptions): wire.ContrastRequest[] {
  const value = {
    ...common(by),
    filter: filter(by),
    limit: wholeIfAny(by.limit, 'limit'),
    truncate: flag(by.truncate, 'truncate'),
  }
  return [
    create(wire.ContrastRequestSchema, { message: { case: 'config', value } }),
    ...side(a, wire.ContrastSide.A, 'a'),
    ...side(b, wire.ContrastSide.B, 'b'),
  ]
}

function side(texts: Iterable<TextLike>, of: wire.ContrastSide, what: string): wire.ContrastRequest[] {
  return [...each(texts, what)].map((given, place) => {
    const value = { side: of, input: oneInput(given, `${what}[${place}]`) }
    return create(wire.ContrastRequestSchema, { message: { case: 'item', value } })
  })
}

function common(by: CallOptions): { model: string } {
  return { model: text(by.model ?? '', 'model') }
}

function sortToken(value: string | number): MessageInitShape<typeof wire.SortTokenSchema> {
  if (typeof value === 'string') return { token: { case: 'text', value: text(value, 'a text in sort') } }
  return { token: { case: 'position', value: wholeIfAny(value, 'a position in sort')! } }
}
