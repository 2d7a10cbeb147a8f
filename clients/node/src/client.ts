/** The client. */

import type { DescMessage, DescMethod, MessageShape } from '@bufbuild/protobuf'
import { connectivityState, type Client as Channel, status as Code } from '@grpc/grpc-js'
import { EncodeResult } from './answers/encoded.js'
import { type Whole, whole } from './answers/whole.js'
import { flag, milliseconds, type VectorLike } from './arguments/numbers.js'
import type { TextLike } from './arguments/inputs.js'
import type { FeatureLike } from './arguments/names.js'
import { DEFAULT_WINDOW, Ledger, type StreamItem } from './calls/ledger.js'
import * as requests from './calls/requests.js'
import { answersTo, paused, type Texts } from './calls/stream.js'
import * as wire from './gen/saeserve/v1/feature_service_pb.js'
import type { ActivationRecord } from './gen/saeserve/v1/types_pb.js'
import { Attempts, seconds } from './transport/attempts.js'
import { Answers, ask, wired, within } from './transport/calls.js'
import { type ClientOptions, Connection } from './transport/connection.js'
import { Cancelled, closed, DeadlineExceeded, type Failure, fromFailure, SaeserveError } from './transport/errors.js'
import { explained, noConnection } from './transport/explain.js'
import { checked, metadata } from './transport/headers.js'
import { Readiness } from './transport/readiness.js'
import { DEFAULT_TARGET } from './transport/target.js'

const RPC = wire.FeatureService.method

export type SearchResult = Whole<wire.SearchResponse>
export type TopActivations = Whole<wire.TopActivationsResponse>
export type SourceList = Whole<wire.ListSourcesResponse>
export type FeatureInfo = Whole<wire.GetFeatureResponse>
export type Vectors = Whole<wire.GetVectorsResponse>
export type Tokenized = Whole<wire.TokenizeResponse>
export type SimilarFeatures = Whole<wire.SimilarFeaturesResponse>
export type ExplanationSearch = Whole<wire.SearchExplanationsResponse>
export type Contrast = Whole<wire.ContrastResponse>
export type ServerInfo = Whole<wire.GetServerInfoResponse>

export interface EncodeStreamOptions extends requests.EncodeOptions {
  /** Yield in the order of the texts, the default; else as they are answered, by `sequence`. */
  inOrder?: boolean
  /** How far the texts are read ahead of what was yielded: 32. */
  window?: number
}

/**
 * A connection to a server, or to several that share the calls. It may be shared; close it when done.
 *
 * target: `host:port`, several of them (an array, or with commas), or a gRPC name: `unix:path`, or `dns:///name:port`
 * for a name whose addresses change. Names among several are looked up once.
 *
 * Calls that fail with UNAVAILABLE or RESOURCE_EXHAUSTED are sent up to five times, after the delay that the server
 * names. Every error of a call is a SaeserveError, or the reason of the caller's signal; arguments that the wire cannot
 * carry are TypeErrors and RangeErrors.
 */
export class Client implements Disposable {
  /** As the caller wrote it. */
  readonly target: string
  readonly #connection: Connection
  readonly #open = new Set<AbortController>()
  #channel: Promise<Channel> | undefined
  #connected: Channel | undefined
  #closed = false

  constructor(target: string | readonly string[] = DEFAULT_TARGET, options: ClientOptions = {}) {
    this.#connection = new Connection(target, options)
    this.target = this.#connection.target.given
  }

  /** Which features fire on this text? */
  async search(text: TextLike, options: requests.SearchOptions = {}): Promise<SearchResult> {
    return this.#whole(RPC.search, requests.search(text, options), options)
  }

  /** How strongly do features, or all features of sources, fire on each token of these texts? Projections too. */
  async encode(texts: string | Iterable<TextLike>, options: requests.EncodeOptions): Promise<EncodeResult> {
    const request = requests.encode(texts, options)
    return new EncodeResult(await this.#ask(RPC.encode, request, options), request.features, request.sources)
  }

  /**
   * The same for any number of texts in bounded memory. Yields an item for each: a result, or its own error.
   *
   * `timeoutMs` is the longest wait for the next answer; the whole stream has no deadline. When the server goes away
   * the stream resumes with the texts not yet answered, and ends with the error only if calls fail for as long as
   * `timeoutMs` without an answer. A configuration that cannot be served throws.
   */
  encodeStream(texts: Texts, options: EncodeStreamOptions): AsyncGenerator<StreamItem, void, undefined> {
    if (typeof texts === 'string')
      throw new TypeError('texts is one text, whose letters are no texts: give it in an array')
    const timeout = milliseconds(options.timeoutMs ?? this.#connection.timeout)
    const inOrder = options.inOrder === undefined || flag(options.inOrder, 'inOrder')
    const ledger = new Ledger(requests.streamConfig(options), options.window ?? DEFAULT_WINDOW, inOrder, timeout)
    checked(options.metadata ?? {})
    return this.#stream(texts, ledger, options, timeout)
  }

  async *#stream(
    texts: Texts,
    ledger: Ledger,
    options: EncodeStreamOptions,
    timeout: number,
  ): AsyncGenerator<StreamItem, void, undefined> {
    const stop = this.#begin(options.signal)
    const method = wired(RPC.encodeStream)
    let requestId = ''
    const line = {
      open: async () => {
        const ready = Promise.all([this.#headers(options), this.#connect()])
        const [headers, channel] = await within(ready, Date.now() + timeout, stop.signal, () => this.#late())
        requestId = headers.requestId
        return new Answers(channel, method, headers.sent)
      },
      error: (failure: unknown) => this.#error(failure, requestId),
      unconnected: () => this.#unconnected(),
      signal: stop.signal,
    }
    try {
      yield* answersTo(texts, ledger, line, timeout)
    } finally {
      stop.end()
    }
  }

  /** One page of the texts of the index on which a feature fires most. */
  async topActivations(feature: FeatureLike, options: requests.TopActivationsOptions = {}): Promise<TopActivations> {
    return this.#whole(RPC.topActivations, requests.topActivations(feature, options), options)
  }

  /** All records of a feature, page by page as they are asked for. `timeoutMs` is for each page. */
  async *iterTopActivations(
    feature: FeatureLike,
    options: requests.RecordOptions = {},
  ): AsyncGenerator<ActivationRecord, void, undefined> {
    let pageToken = ''
    do {
      const page: TopActivations = await this.topActivations(feature, { ...options, pageToken })
      yield* page.records
      pageToken = page.nextPageToken
    } while (pageToken)
  }

  /** Which sources are served? By layer, latents before neurons. */
  async listSources(options: requests.CallOptions = {}): Promise<SourceList> {
    return this.#whole(RPC.listSources, requests.listSources(options), options)
  }

  /** What is known of one feature? */
  async getFeature(feature: FeatureLike, options: requests.CallOptions = {}): Promise<FeatureInfo> {
    return this.#whole(RPC.getFeature, requests.getFeature(feature, options), options)
  }

  /** Which directions does this feature read and write? */
  async vectors(feature: FeatureLike, options: requests.VectorsOptions = {}): Promise<Vectors> {
    return this.#whole(RPC.getVectors, requests.vectors(feature, options), options)
  }

  /** How does the model cut this text into tokens? Token ids are answered with their pieces. */
  async tokenize(text: TextLike, options: requests.CallOptions = {}): Promise<Tokenized> {
    return this.#whole(RPC.tokenize, requests.tokenize(text, options), options)
  }

  /** Which features point, fire or read like this one, or point where a vector in the residual stream does? */
  async similar(to: FeatureLike | VectorLike, options: requests.SimilarOptions = {}): Promise<SimilarFeatures> {
    return this.#whole(RPC.similarFeatures, requests.similar(to, options), options)
  }

  /** Which features tell these texts from those? At least 5 a side. */
  async contrast(
    a: Iterable<TextLike>,
    b: Iterable<TextLike>,
    options: requests.ContrastOptions = {},
  ): Promise<Contrast> {
    return this.#whole(RPC.contrast, requests.contrast(a, b, options), options)
  }

  /** Which features are explained in these words? Over what was imported. */
  async searchExplanations(query: string, options: requests.ExplanationOptions = {}): Promise<ExplanationSearch> {
    return this.#whole(RPC.searchExplanations, requests.searchExplanations(query, options), options)
  }

  /** Which model, which device, which limits? */
  async serverInfo(options: Omit<requests.CallOptions, 'model'> = {}): Promise<ServerInfo> {
    return this.#whole(RPC.getServerInfo, requests.serverInfo(), options)
  }

  /**
   * Wait until the server answers, also while it starts and loads its weights: a minute, or `timeoutMs`.
   *
   * Rejects with DeadlineExceeded, which says what was heard last, and at once with what no waiting can mend.
   */
  async waitReady({
    timeoutMs = 60_000,
    signal,
  }: { timeoutMs?: number; signal?: AbortSignal } = {}): Promise<ServerInfo> {
    const readiness = new Readiness(this.target, milliseconds(timeoutMs))
    const stop = this.#begin(signal)
    try {
      for (;;) {
        try {
          const left = { timeoutMs: readiness.left() }
          const until = new Attempts(left.timeoutMs, 1, false)
          const answer = await this.#attempts(RPC.getServerInfo, requests.serverInfo(), left, until, stop.signal)
          return whole(RPC.getServerInfo.output, answer)
        } catch (error) {
          await paused(readiness.pauseAfter(error), stop.signal)
        }
      }
    } finally {
      stop.end()
    }
  }

  /** Close the connection. Calls in flight, and later ones, reject with Cancelled (CLIENT_CLOSED). */
  close(): void {
    this.#closed = true
    for (const call of this.#open) call.abort(closed())
    this.#channel?.then((channel) => channel.close()).catch(() => undefined)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  async #whole<I extends DescMessage, O extends DescMessage>(
    method: DescMethod & { input: I; output: O },
    request: MessageShape<I> | MessageShape<I>[],
    options: requests.CallOptions,
  ): Promise<Whole<MessageShape<O>>> {
    return whole(method.output, await this.#ask(method, request, options))
  }

  /** Send a call, again where it may succeed: the way of every call but EncodeStream. */
  async #ask<I extends DescMessage, O extends DescMessage>(
    method: DescMethod & { input: I; output: O },
    request: MessageShape<I> | MessageShape<I>[],
    options: requests.CallOptions,
  ): Promise<MessageShape<O>> {
    const { maxAttempts, target } = this.#connection
    const timeout = milliseconds(options.timeoutMs ?? this.#connection.timeout)
    checked(options.metadata ?? {})
    const stop = this.#begin(options.signal)
    try {
      return await this.#attempts(
        method,
        request,
        options,
        new Attempts(timeout, maxAttempts, target.several),
        stop.signal,
      )
    } finally {
      stop.end()
    }
  }

  async #attempts<I extends DescMessage, O extends DescMessage>(
    method: DescMethod & { input: I; output: O },
    request: MessageShape<I> | MessageShape<I>[],
    options: requests.CallOptions,
    attempts: Attempts,
    signal: AbortSignal,
  ): Promise<MessageShape<O>> {
    const late = () => this.#late()
    const { sent, requestId } = await within(this.#headers(options), attempts.deadline, signal, late)
    for (;;) {
      let error: SaeserveError
      try {
        const channel = await within(this.#connect(), attempts.deadline, signal, late)
        return await ask(channel, wired(method), request, sent.clone(), attempts.deadline, signal)
      } catch (failure) {
        signal.throwIfAborted()
        error = this.#error(failure, requestId, attempts.timeout)
      }
      await paused(attempts.pauseAfter(error), signal)
    }
  }

  #headers(options: requests.CallOptions) {
    return this.#connection.headers().then((own) => metadata([...own, options.metadata ?? {}], options.requestId))
  }

  /** The channel, made when it is first needed: names among several targets must be looked up before. */
  async #connect(): Promise<Channel> {
    if (this.#closed) throw closed()
    this.#channel ??= this.#connection.open()
    try {
      this.#connected = await this.#channel
    } catch (error) {
      this.#channel = undefined // looked up anew by the next attempt
      throw error
    }
    if (this.#closed) throw closed()
    return this.#connected
  }

  /** A signal that follows the caller's, and the client's end. */
  #begin(signal: AbortSignal | undefined): { signal: AbortSignal; end: () => void } {
    if (this.#closed) throw closed()
    signal?.throwIfAborted()
    const stop = new AbortController()
    const follow = () => stop.abort(signal?.reason)
    signal?.addEventListener('abort', follow, { once: true })
    this.#open.add(stop)
    const end = () => {
      signal?.removeEventListener('abort', follow)
      this.#open.delete(stop)
    }
    return { signal: stop.signal, end }
  }

  /** The typed error of what failed on the way. What is no gRPC error is thrown as it is. */
  #error(failure: unknown, requestId: string, timeout?: number): SaeserveError {
    if (failure instanceof SaeserveError) return failure
    if (!isFailure(failure)) throw failure
    const error = explained(fromFailure(failure, requestId), this.target)
    if (error instanceof Cancelled && this.#closed) return closed()
    if (error instanceof DeadlineExceeded && !error.reason && /^Deadline exceeded/i.test(error.message)) {
      const late = timeout === undefined ? 'no answer within the timeout' : `no answer within ${seconds(timeout)}`
      error.message = this.#unconnected() || late
    }
    return error
  }

  /** What is said where the time is up before anything could be sent. */
  #late(): DeadlineExceeded {
    return new DeadlineExceeded(noConnection(this.target), { code: Code.DEADLINE_EXCEEDED })
  }

  #unconnected(): string {
    const state = this.#connected?.getChannel().getConnectivityState(false)
    return state === connectivityState.READY ? '' : noConnection(this.target)
  }
}

function isFailure(failure: unknown): failure is Failure {
  return failure instanceof Error && 'code' in failure && typeof failure.code === 'number' && failure.code in Code
}
