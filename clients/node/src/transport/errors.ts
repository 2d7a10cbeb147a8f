/** What the service refuses, as one hierarchy: a class for each gRPC status, with the details that the server sent. */

import { createRegistry, fromBinary } from '@bufbuild/protobuf'
import { anyUnpack } from '@bufbuild/protobuf/wkt'
import { status as Code, type Metadata } from '@grpc/grpc-js'
import {
  type BadRequest,
  BadRequestSchema,
  type ErrorInfo,
  ErrorInfoSchema,
  type RequestInfo,
  RequestInfoSchema,
  type RetryInfo,
  RetryInfoSchema,
} from '../gen/google/rpc/error_details_pb.js'
import { StatusSchema, type Status } from '../gen/google/rpc/status_pb.js'

/** One field of a request that the service cannot accept. */
export interface FieldViolation {
  /** Its path, for example `filter.include.sources[1]`. */
  field: string
  /** What was expected. */
  description: string
}

/** What an error carries beside its message. */
export interface ErrorDetails {
  code?: Code
  reason?: string
  metadata?: Record<string, string>
  violations?: FieldViolation[]
  retryDelayMs?: number | undefined
  requestId?: string
  cause?: unknown
}

/** A call that the service, or the way to it, did not answer. gRPC's own error is its `cause`. */
export class SaeserveError extends Error {
  override name = 'SaeserveError'
  /** The gRPC status, a number: `status.NOT_FOUND` of `@grpc/grpc-js`. */
  readonly code: Code
  /** Upper-case name of the cause (`SOURCE_NOT_FOUND`); empty where none was sent. */
  reason: string
  /** Facts that belong to the reason. */
  readonly metadata: Record<string, string>
  /** The fields at fault, with InvalidArgument and NotFound. */
  readonly violations: FieldViolation[]
  /** Milliseconds after which the server expects a retry to succeed; undefined where it did not say. */
  retryDelayMs: number | undefined
  /** Names the call in the server's log. */
  readonly requestId: string

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = details.code ?? Code.UNKNOWN
    this.reason = details.reason ?? ''
    this.metadata = details.metadata ?? {}
    this.violations = details.violations ?? []
    this.retryDelayMs = details.retryDelayMs
    this.requestId = details.requestId ?? ''
  }

  /** The status by its name, for example `NOT_FOUND`. */
  get status(): string {
    return Code[this.code] ?? 'UNKNOWN'
  }

  /** What it says, the message too, which JSON.stringify leaves out of errors. */
  toJSON() {
    const { name, code, status, reason, message, metadata, violations, retryDelayMs, requestId } = this
    return { name, code, status, reason, message, metadata, violations, retryDelayMs, requestId }
  }
}

/** The request cannot be answered by any server like this: see `violations`. */
export class InvalidArgument extends SaeserveError {
  override name = 'InvalidArgument'
}
/** A model, source, set or feature that is not served; the message names the nearest. */
export class NotFound extends SaeserveError {
  override name = 'NotFound'
}
/** The server lacks what the request needs, for example an index (reason INDEX_REQUIRED). */
export class FailedPrecondition extends SaeserveError {
  override name = 'FailedPrecondition'
}
/** What the request continued is gone, for example pages of an index that was replaced (reason STORE_CHANGED). */
export class Aborted extends SaeserveError {
  override name = 'Aborted'
}
/** The server is over its budget: see `retryDelayMs`. Or an answer is over the client's `maxMessageBytes`. */
export class ResourceExhausted extends SaeserveError {
  override name = 'ResourceExhausted'
}
/** No answer came within the timeout. */
export class DeadlineExceeded extends SaeserveError {
  override name = 'DeadlineExceeded'
}
/** The call was cancelled by the server, or the client closed (reason CLIENT_CLOSED). */
export class Cancelled extends SaeserveError {
  override name = 'Cancelled'
}
/** No server answers there, or it is starting, draining or restarting its worker. */
export class Unavailable extends SaeserveError {
  override name = 'Unavailable'
}
/** The call carried no credentials that the server accepts. */
export class Unauthenticated extends SaeserveError {
  override name = 'Unauthenticated'
}
/** The caller may not do this. */
export class PermissionDenied extends SaeserveError {
  override name = 'PermissionDenied'
}
/** The server does not know this call: it is older than the client, or another service. */
export class Unimplemented extends SaeserveError {
  override name = 'Unimplemented'
}
/** The server failed; `requestId` finds the cause in its log. */
export class Internal extends SaeserveError {
  override name = 'Internal'
}

const CLASSES: Partial<Record<Code, typeof SaeserveError>> = {
  [Code.INVALID_ARGUMENT]: InvalidArgument,
  [Code.NOT_FOUND]: NotFound,
  [Code.FAILED_PRECONDITION]: FailedPrecondition,
  [Code.ABORTED]: Aborted,
  [Code.RESOURCE_EXHAUSTED]: ResourceExhausted,
  [Code.DEADLINE_EXCEEDED]: DeadlineExceeded,
  [Code.CANCELLED]: Cancelled,
  [Code.UNAVAILABLE]: Unavailable,
  [Code.UNAUTHENTICATED]: Unauthenticated,
  [Code.PERMISSION_DENIED]: PermissionDenied,
  [Code.UNIMPLEMENTED]: Unimplemented,
  [Code.INTERNAL]: Internal,
}

type Detail = ErrorInfo | BadRequest | RetryInfo | RequestInfo
const DETAILS = createRegistry(ErrorInfoSchema, BadRequestSchema, RetryInfoSchema, RequestInfoSchema)

/** What grpc-js gives for a call that failed. */
export interface Failure {
  code: Code
  details: string
  metadata?: Metadata | undefined
}

/** The typed error of a failed call. `requestId` is what the call sent, for failures that never saw a server. */
export function fromFailure(failure: Failure, requestId: string): SaeserveError {
  const packed = failure.metadata?.get('grpc-status-details-bin')[0]
  const error = typed(failure.code, failure.details, details(packed), { requestId, cause: failure })
  error.retryDelayMs ??= pushback(failure.metadata?.get('grpc-retry-pushback-ms')[0])
  if (error instanceof ResourceExhausted && !error.reason && /larger than max/.test(failure.details)) {
    // gRPC's own limit on this side, which must not look like an overloaded server.
    error.reason = 'OVER_MAX_MESSAGE_BYTES'
    error.message += '; ask for less, stream, or give the client a larger maxMessageBytes'
  }
  return error
}

/** The typed error of a google.rpc.Status, as the items of a stream carry it. */
export function fromStatus(status: Status, requestId: string): SaeserveError {
  return typed(status.code, status.message, status, { requestId })
}

/** The one error of a client that was closed, before a call or in the middle of it. */
export function closed(): Cancelled {
  return new Cancelled('the client is closed', { code: Code.CANCELLED, reason: 'CLIENT_CLOSED' })
}

/** The error of an answer whose parts do not fit together. */
export function malformed(message: string): Internal {
  return new Internal(`the server's answer does not fit together: ${message}`, {
    code: Code.INTERNAL,
    reason: 'MALFORMED_ANSWER',
  })
}

function typed(code: Code, message: string, status: Status | undefined, more: ErrorDetails): SaeserveError {
  const found: ErrorDetails = { ...more, code }
  for (const packed of status?.details ?? []) {
    const detail = unpacked(() => anyUnpack(packed, DETAILS)) as Detail | undefined
    switch (detail?.$typeName) {
      case 'google.rpc.ErrorInfo':
        found.reason = detail.reason
        found.metadata = detail.metadata
        break
      case 'google.rpc.BadRequest':
        found.violations = detail.fieldViolations.map(({ field, description }) => ({ field, description }))
        break
      case 'google.rpc.RetryInfo':
        found.retryDelayMs = Number(detail.retryDelay?.seconds ?? 0) * 1000 + (detail.retryDelay?.nanos ?? 0) / 1e6
        break
      case 'google.rpc.RequestInfo':
        found.requestId = detail.requestId || more.requestId || ''
        break
    }
  }
  return new (CLASSES[code] ?? SaeserveError)(message, found)
}

function details(packed: string | Buffer | undefined): Status | undefined {
  if (packed === undefined || typeof packed === 'string') return undefined
  return unpacked(() => fromBinary(StatusSchema, packed))
}

/** What can be read; a damaged detail, a proxy's perhaps, is as good as none: the code and its message still stand. */
function unpacked<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}

/** Milliseconds; negative ("do not retry") and unreadable values are no delay. */
function pushback(value: string | Buffer | undefined): number | undefined {
  const found = value === undefined ? Number.NaN : Number.parseInt(String(value), 10)
  return found >= 0 ? found : undefined
}
