/** What Encode and EncodeStream answer, with activations as typed arrays. */

import type { FeatureIdInit, FeatureLike } from '../arguments/names.js'
import { featureId } from '../arguments/names.js'
import {
  type EncodedText as EncodedTextMessage,
  EncodedTextSchema,
  type EncodeResponse,
  EncodeResponseSchema,
} from '../gen/saeserve/v1/feature_service_pb.js'
import { type CallInfo, CallInfoSchema, type Token } from '../gen/saeserve/v1/types_pb.js'
import { malformed } from '../transport/errors.js'
import { type Csr, dense, type Matrix, sparse } from './activations.js'
import { printable, protoJson } from './json.js'
import { aliases, BySource } from './sources.js'

/** One text's activations: rows are its tokens. */
export class EncodedText {
  constructor(
    private readonly text: EncodedTextMessage,
    /** Chosen features, in the order asked for; undefined where sources were asked for. */
    readonly dense: Matrix | undefined,
    /** By source id, in the order of the answer; also found by the alias that was asked for. */
    readonly sparse: ReadonlyMap<string, Csr>,
    /** The same. Whole neuron sources come only from `encodeStream`. */
    readonly neurons: ReadonlyMap<string, Matrix>,
  ) {}

  /** With `bosIncluded` the first is the BOS. Empty with `omitTokens`. */
  get tokens(): Token[] {
    return this.text.tokens
  }

  get bosIncluded(): boolean {
    return this.text.bosIncluded
  }

  /** Whether the text was cut to the token limit. */
  get truncated(): boolean {
    return this.text.truncated
  }

  toJSON() {
    const { tokens, bosIncluded, truncated } = protoJson(EncodedTextSchema, this.text)
    const [bySource, neurons] = [Object.fromEntries(this.sparse), Object.fromEntries(this.neurons)]
    return { tokens, bosIncluded, truncated, dense: this.dense, sparse: bySource, neurons }
  }
}

/** Activations of texts: all rows in one block, and `texts` with a view for each. Iterating gives the texts. */
export class EncodeResult {
  readonly #texts: EncodedTextMessage[]
  readonly callInfo: CallInfo
  /** One for each text asked for. */
  readonly texts: EncodedText[]
  /** Text i has the rows from textOffsets[i] to textOffsets[i + 1]. */
  readonly textOffsets: number[]
  /** [tokens of all texts, features]; undefined where sources were asked for. */
  readonly dense: Matrix | undefined
  /** By source id, in the order asked for, also found by the alias asked for: [tokens of all texts, latents]. */
  readonly sparse: ReadonlyMap<string, Csr>

  /**
   * `features` are the columns of `dense`, as asked for; `sources` were asked for by these names, in lower case.
   * Throws Internal (MALFORMED_ANSWER).
   */
  constructor(
    answer: EncodeResponse,
    readonly features: readonly FeatureIdInit[],
    sources: readonly string[],
  ) {
    if (answer.callInfo === undefined) throw malformed('EncodeResponse has no call_info')
    const [offsets, texts] = [answer.textOffsets, answer.texts]
    const called = aliases(
      sources,
      answer.sparse.map(({ source }) => source),
    )
    const blocks = new BySource(
      answer.sparse.map((block) => [block.source, sparse(block)] as const),
      called,
    )
    const chosen = answer.dense && dense(answer.dense)
    if (offsets.length !== texts.length + 1) throw malformed(`${offsets.length} offsets for ${texts.length} texts`)
    for (const { rows } of chosen ? [chosen, ...blocks.values()] : blocks.values()) {
      if (rows !== offsets.at(-1)) throw malformed(`a block of ${rows} rows for ${offsets.at(-1)} tokens`)
    }
    printable(EncodeResponseSchema, answer)
    this.#texts = texts
    this.callInfo = answer.callInfo
    this.textOffsets = offsets
    this.dense = chosen
    this.sparse = blocks
    this.texts = texts.map((text, place) => {
      const [start, end] = [offsets[place]!, offsets[place + 1]!]
      const own = [...blocks].map(([source, block]) => [source, block.slice(start, end)] as const)
      return new EncodedText(text, chosen?.slice(start, end), new BySource(own, called), new Map())
    })
  }

  /** [tokens of all texts]; one feature. Throws RangeError if it was not asked for. */
  column(feature: FeatureLike): Float32Array {
    const { source, index } = featureId(feature)
    const place = this.features.findIndex((one) => one.source === source && one.index === index)
    if (this.dense && place >= 0) return this.dense.column(place)
    const block = this.sparse.get(source)
    if (!block || index >= block.columns) throw new RangeError(`${source}:${index} was not asked for`)
    return block.column(index)
  }

  [Symbol.iterator](): Iterator<EncodedText> {
    return this.texts[Symbol.iterator]()
  }

  /** The gateway's form: buffers as arrays. */
  toJSON() {
    return {
      callInfo: protoJson(CallInfoSchema, this.callInfo),
      texts: this.#texts.map((text) => protoJson(EncodedTextSchema, text)),
      textOffsets: this.textOffsets,
      sparse: [...this.sparse].map(([source, block]) => ({ source, ...block.toJSON() })),
      dense: this.dense && { source: '', ...this.dense.toJSON() },
    }
  }
}
