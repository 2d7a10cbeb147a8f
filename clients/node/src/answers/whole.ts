/**
 * Answers as types that say what is always there.
 *
 * proto3 lets every message field be unset, so that generated types would have callers write `hit.facts?.name`. The
 * service always sets those in this table; an answer without one is refused as malformed.
 */

import type { DescMessage, Message, MessageShape } from '@bufbuild/protobuf'
import { malformed } from '../transport/errors.js'
import { printable } from './json.js'

const ALWAYS = {
  'saeserve.v1.SearchResponse': ['callInfo'],
  'saeserve.v1.EncodeResponse': ['callInfo'],
  'saeserve.v1.EncodeStreamResponse': ['callInfo'],
  'saeserve.v1.TopActivationsResponse': ['callInfo', 'facts'],
  'saeserve.v1.SimilarFeaturesResponse': ['callInfo'],
  'saeserve.v1.ContrastResponse': ['callInfo'],
  'saeserve.v1.SearchExplanationsResponse': ['callInfo'],
  'saeserve.v1.ListSourcesResponse': ['callInfo'],
  'saeserve.v1.GetFeatureResponse': ['callInfo', 'facts', 'source'],
  'saeserve.v1.GetVectorsResponse': ['callInfo', 'facts'],
  'saeserve.v1.TokenizeResponse': ['callInfo'],
  'saeserve.v1.GetServerInfoResponse': ['callInfo', 'model', 'limits'],
  'saeserve.v1.FeatureResult': ['facts'],
  'saeserve.v1.SimilarFeature': ['facts'],
  'saeserve.v1.ContrastResult': ['facts'],
  'saeserve.v1.ExplanationResult': ['facts', 'explanation'],
  'saeserve.v1.FeatureFacts': ['feature'],
  'saeserve.v1.UsualToken': ['token'],
} as const

type Always<N> = N extends keyof typeof ALWAYS ? (typeof ALWAYS)[N][number] : never

/** A message whose fields of the table are there. */
export type Whole<T> =
  T extends Message<infer N>
    ? { [K in keyof T as K extends Always<N> ? never : K]: Whole<T[K]> } & {
        [K in keyof T as K extends Always<N> ? K : never]-?: Whole<NonNullable<T[K]>>
      }
    : T extends (infer E)[]
      ? Whole<E>[]
      : T

/** The answer, checked. As JSON (`JSON.stringify(answer)`), it and each message in it is the contract's ProtoJSON. */
export function whole<D extends DescMessage>(schema: D, answer: MessageShape<D>): Whole<MessageShape<D>> {
  check(schema, answer)
  return printable(schema, answer) as Whole<MessageShape<D>>
}

function check(schema: DescMessage, message: Message): void {
  const needed: readonly string[] = (ALWAYS as Record<string, readonly string[]>)[schema.typeName] ?? []
  for (const field of schema.fields) {
    const value = (message as unknown as Record<string, unknown>)[field.localName]
    if (needed.includes(field.localName) && value === undefined) {
      throw malformed(`${schema.name} has no ${field.name}`)
    }
    if (field.message === undefined || !(field.message.typeName in ALWAYS) || value === undefined) continue
    for (const one of Array.isArray(value) ? value : [value]) check(field.message, one as Message)
  }
}
