/** saeserve from Node: what a language model's features respond to. */

export { Csr, Matrix } from './answers/activations.js'
export { EncodedText, EncodeResult } from './answers/encoded.js'
export type { Whole } from './answers/whole.js'
export type { TextLike } from './arguments/inputs.js'
export { featureName, type FeatureIdInit, type FeatureLike } from './arguments/names.js'
export type { VectorLike } from './arguments/numbers.js'
export type { FilterOptions, Kind, OneOrMore } from './arguments/select.js'
export type { StreamItem } from './calls/ledger.js'
export type {
  CallOptions,
  ContrastOptions,
  EncodeOptions,
  ExplanationOptions,
  Projection,
  RecordOptions,
  SearchOptions,
  SimilarOptions,
  TopActivationsOptions,
  VectorsOptions,
} from './calls/requests.js'
export type { Texts } from './calls/stream.js'
export * from './client.js'
export * from './gen/saeserve/v1/feature_service_pb.js'
export * from './gen/saeserve/v1/types_pb.js'
export type { ClientOptions, Pem } from './transport/connection.js'
export {
  Aborted,
  Cancelled,
  DeadlineExceeded,
  type ErrorDetails,
  FailedPrecondition,
  type FieldViolation,
  Internal,
  InvalidArgument,
  NotFound,
  PermissionDenied,
  ResourceExhausted,
  SaeserveError,
  Unauthenticated,
  Unavailable,
  Unimplemented,
} from './transport/errors.js'
export type { Headers, Token } from './transport/headers.js'
