/** The state of one EncodeStream, without any I/O: what was sent, what was answered, what must be sent again. */

import { create, toBinary } from '@bufbuild/protobuf'
import { status as Code } from '@grpc/grpc-js'
import { type Csr, dense, joined, type Matrix, sparse, stacked } from '../answers/activations.js'
import { EncodedText } from '../answers/encoded.js'
import { printable } from '../answers/json.js'
import { aliases, BySource } from '../answers/sources.js'
import { oneInput, type TextLike } from '../arguments/inputs.js'
import { whole } from '../arguments/numbers.js'
import * as wire from '../gen/saeserve/v1/feature_service_pb.js'
import { type CallInfo, CallInfoSchema } from '../gen/saeserve/v1/types_pb.js'
import { advised, INITIAL_BACKOFF, jittered, MAX_BACKOFF, seconds, worthAnother } from '../transport/attempts.js'
import {
  DeadlineExceeded,
  fromStatus,
  InvalidArgument,
  malformed,
  type SaeserveError,
  Unavailable,
} from '../transport/errors.js'

export const DEFAULT_WINDOW = 32

/** The answer to one text of a stream: a result, or why there is none. */
export type StreamItem =
  | { sequence: number; callInfo: CallInfo; result: EncodedText; error: undefined }
  | { sequence: number; callInfo: CallInfo | undefined; result: undefined; error: SaeserveError }

/** Numbers the items, keeps those not yet answered, puts chunks together and says when to resume. */
export class Ledger {
  readonly #unanswered = new Map<number, wire.EncodeStreamRequest>()
  readonly #parts = new Map<number, Parts>()
  readonly #waiting = new Map<number, StreamItem>()
  readonly #window: number
  #ready: StreamItem[] = []
  #count = 0
  #next = 0
  /** Why the last call failed, until an item is answered. */
  #said = ''
  /** When the first of the calls failed since an item was last answered. */
  #failingSince: number | undefined
  #backoff = INITIAL_BACKOFF

  /** `window` bounds the items that are unanswered or, `inOrder`, answered but waiting for an earlier one. */
  constructor(
    private readonly config: wire.EncodeStreamConfig,
    window: number,
    private readonly inOrder: boolean,
    private readonly timeout: number,
  ) {
    this.#window = whole(window, 'window: the number of items let through at a time', 1)
  }

  /** Whether another text may be taken from the caller. */
  get hasRoom(): boolean {
    return this.#unanswered.size + this.#waiting.size < this.#window
  }

  /** Whether every text taken so far is answered. */
  get settled(): boolean {
    return this.#unanswered.size === 0
  }

  /** Number a text and return its message; undefined for one that cannot be sent, which is answered here and now. */
  add(text: TextLike): wire.EncodeStreamRequest | undefined {
    const sequence = this.#count++
    const place = `texts[${sequence}]`
    try {
      const value = { sequence: BigInt(sequence), input: oneInput(text, place) }
      const message = create(wire.EncodeStreamRequestSchema, { message: { case: 'item', value } })
      this.#unanswered.set(sequence, message)
      return message
    } catch (error) {
      this.#refused(sequence, (error as Error).message)
      return undefined
    }
  }

  /** The items that may be given to the caller, each once. */
  ready(): StreamItem[] {
    const ready = this.#ready
    this.#ready = []
    return ready
  }

  /** The first messages of a call: the configuration, then what an earlier call left unanswered, in order. */
  opening(): wire.EncodeStreamRequest[] {
    this.#parts.clear()
    const first = create(wire.EncodeStreamRequestSchema, { message: { case: 'config', value: this.config } })
    return [first, ...this.#unanswered.values()]
  }

  /** Keep an answer; `ready` gives the items it completes. Throws Internal for one to what was never asked. */
  take(answer: wire.EncodeStreamResponse): void {
    const sequence = Number(answer.sequence)
    const { callInfo } = answer
    if (!this.#unanswered.has(sequence)) throw malformed(`item ${sequence} is not waiting for an answer`)
    if (callInfo === undefined) throw malformed('EncodeStreamResponse has no call_info')
    printable(CallInfoSchema, callInfo)
    if (answer.answer.case === 'error') {
      const error = fromStatus(answer.answer.value, callInfo.requestId)
      this.#answered({ sequence, callInfo, result: undefined, error })
    } else if (answer.answer.case === 'chunk') {
      const parts = this.#parts.get(sequence) ?? new Parts()
      this.#parts.set(sequence, parts)
      parts.add(answer.answer.value)
      if (answer.answer.value.last) {
        const result = parts.joined(this.config.sources)
        this.#answered({ sequence, callInfo, result, error: undefined })
      }
    } else {
      throw malformed(`the answer to item ${sequence} is neither a chunk nor an error`)
    }
  }

  /** Milliseconds to wait before resuming after a call's failure; throws the error where resuming is of no use. */
  delayAfter(error: SaeserveError): number {
    if (this.#tooLarge(error)) return 0
    // CANCELLED is what a server ends a stream with that nobody has read for a while: now somebody does.
    const unread = error.code === Code.CANCELLED && error.reason !== 'CLIENT_CLOSED'
    if (!(unread || worthAnother(error))) throw error
    const now = Date.now()
    this.#failingSince ??= now
    this.#said = error.message
    // The server's delay is for this moment. Where calls fail on and on, the wait grows whatever it says.
    let delay = jittered(this.#backoff)
    if (error.retryDelayMs !== undefined) {
      delay = this.#backoff === INITIAL_BACKOFF ? error.retryDelayMs : Math.max(error.retryDelayMs, delay)
    }
    this.#backoff = Math.min(MAX_BACKOFF, 2 * this.#backoff)
    if (now + delay - this.#failingSince > this.timeout) throw advised(error)
    return delay
  }

  /** The error of a call that the server ended, politely, before every item was answered. */
  endedEarly(): SaeserveError {
    const message = `the server ended the stream with ${this.#unanswered.size} items unanswered`
    return new Unavailable(message, { code: Code.UNAVAILABLE, reason: 'STREAM_ENDED' })
  }

  /** The error of a call that gave no answer in time. */
  stalled(unconnected: string): SaeserveError {
    const why = unconnected || (this.#said && `the call before was refused: ${this.#said}`)
    const message = `no answer on the stream within ${seconds(this.timeout)}, ${this.#unanswered.size} items unanswered`
    return new DeadlineExceeded(why ? `${message}; ${why}` : message, { code: Code.DEADLINE_EXCEEDED })
  }

  /** Whether items were over what the server takes in one message; each is then answered with its own error. */
  #tooLarge(error: SaeserveError): boolean {
    const most = Number(/message larger than max \(\d+ vs\.? (\d+)\)/.exec(error.message)?.[1])
    if (error.code !== Code.RESOURCE_EXHAUSTED || !(most > 0)) return false
    const large = [...this.#unanswered].filter(
      ([, message]) => toBinary(wire.EncodeStreamRequestSchema, message).length > most,
    )
    for (const [sequence] of large) {
      this.#refused(
        sequence,
        `texts[${sequence}] is larger than the ${most} bytes that the server takes in one message`,
      )
    }
    return large.length > 0
  }

  #refused(sequence: number, message: string): void {
    const violations = [{ field: `texts[${sequence}]`, description: message }]
    const details = { code: Code.INVALID_ARGUMENT, reason: 'INVALID_TEXT', violations }
    this.#answered({ sequence, callInfo: undefined, result: undefined, error: new InvalidArgument(message, details) })
  }

  #answered(item: StreamItem): void {
    this.#unanswered.delete(item.sequence)
    this.#parts.delete(item.sequence)
    if (item.callInfo !== undefined) {
      this.#failingSince = undefined
      this.#said = ''
      this.#backoff = INITIAL_BACKOFF
    }
    if (!this.inOrder) {
      this.#ready.push(item)
      return
    }
    this.#waiting.set(item.sequence, item)
    for (let next = this.#waiting.get(this.#next); next; next = this.#waiting.get(this.#next)) {
      this.#waiting.delete(this.#next++)
      this.#ready.push(next)
    }
  }
}

/** The chunks of one item so far. */
class Parts {
  #text: wire.EncodedText | undefined
  readonly #sparse = new Map<string, Csr[]>()
  readonly #dense = new Map<string, Matrix[]>()
  /** In the order of the answer. */
  readonly #sources = new Set<string>()

  /** Throws Internal for rows that do not follow those before. */
  add(chunk: wire.EncodeChunk): void {
    this.#text ??= chunk.text && printable(wire.EncodedTextSchema, chunk.text)
    if (chunk.rows.value?.source) this.#sources.add(chunk.rows.value.source)
    if (chunk.rows.case === 'sparse')
      put(this.#sparse, chunk.rows.value.source, sparse(chunk.rows.value), chunk.rowStart)
    if (chunk.rows.case === 'dense') put(this.#dense, chunk.rows.value.source, dense(chunk.rows.value), chunk.rowStart)
  }

  /** `asked` names the sources as they were asked for. */
  joined(asked: readonly string[]): EncodedText {
    if (this.#text === undefined) throw malformed('no chunk carries the text')
    const called = aliases(asked, [...this.#sources])
    const bySource = [...this.#sparse].map(([source, parts]) => [source, joined(parts)] as const)
    const neurons = new Map([...this.#dense].map(([source, parts]) => [source, stacked(parts)]))
    // Chosen features come without a source's name; whole neuron sources with it.
    const chosen = neurons.get('')
    neurons.delete('')
    return new EncodedText(this.#text, chosen, new BySource(bySource, called), new BySource(neurons, called))
  }
}

function put<T extends { rows: number }>(all: Map<string, T[]>, source: string, part: T, start: number): void {
  const parts = all.get(source) ?? []
  const rows = parts.reduce((sum, one) => sum + one.rows, 0)
  if (start !== rows) throw malformed(`a chunk from row ${start} after ${rows} rows`)
  all.set(source, [...parts, part])
}
