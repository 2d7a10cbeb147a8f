/** EncodeStream: one call after another until every text is answered. */

import { setTimeout as sleep } from 'node:timers/promises'
import type { TextLike } from '../arguments/inputs.js'
import type { EncodeStreamRequest, EncodeStreamResponse } from '../gen/saeserve/v1/feature_service_pb.js'
import type { Answers } from '../transport/calls.js'
import type { SaeserveError } from '../transport/errors.js'
import type { Ledger, StreamItem } from './ledger.js'

/** Texts that are read as they are needed. */
export type Texts = Iterable<TextLike> | AsyncIterable<TextLike>

/** How a stream reaches its server. */
export interface Line {
  open(): Promise<Answers<EncodeStreamRequest, EncodeStreamResponse>>
  /** What gRPC's error of a call means; anything else as it is. */
  error(failure: unknown): SaeserveError
  /** What is to say of a call without an answer if there is no connection; empty if there is one. */
  unconnected(): string
  signal: AbortSignal
}

/** One call failed. A type of its own, so that errors of the caller's texts are never taken for it. */
class CallFailed extends Error {
  constructor(readonly error: SaeserveError) {
    super(error.message)
  }
}

type Call = Answers<EncodeStreamRequest, EncodeStreamResponse>

type Event =
  | { kind: 'text'; text: IteratorResult<TextLike> }
  | { kind: 'broken'; error: unknown }
  | { kind: 'answer'; call: Call; answer: EncodeStreamResponse | undefined }
  | { kind: 'failed'; call: Call; failure: unknown }
  | { kind: 'aborted' }
  | { kind: 'late' }

/** What has happened, in order. A race between promises would leave something behind in the slow ones at each text. */
class Mail {
  readonly #events: Event[] = []
  #wake: (() => void) | undefined

  post(event: Event): void {
    this.#events.push(event)
    this.#wake?.()
  }

  /** The next event, `late` after the timeout; one that a timer cannot hold (24 days) is none. */
  async take(timeout: number): Promise<Event> {
    if (this.#events.length === 0) {
      await new Promise<void>((resolve) => {
        const timer = timeout < 2 ** 31 ? setTimeout(resolve, timeout) : undefined
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      this.#wake = undefined
    }
    return this.#events.shift() ?? { kind: 'late' }
  }
}

/** The caller's texts, with a memory of their end, and of the one asked for, across calls. */
class Source {
  readonly #texts: Iterator<TextLike> | AsyncIterator<TextLike>
  #asked = false
  ended = false

  constructor(
    texts: Texts,
    private readonly mail: Mail,
  ) {
    this.#texts = Symbol.asyncIterator in texts ? texts[Symbol.asyncIterator]() : texts[Symbol.iterator]()
  }

  /** See to it that the next text comes by mail. */
  async ask(): Promise<void> {
    if (this.#asked || this.ended) return
    this.#asked = true
    try {
      this.mail.post({ kind: 'text', text: await this.#texts.next() })
    } catch (error) {
      this.mail.post({ kind: 'broken', error })
    }
  }

  taken(text: IteratorResult<TextLike>): void {
    this.#asked = false
    this.ended = text.done === true
  }

  async close(): Promise<void> {
    if (this.ended) return
    const closing = Promise.resolve(this.#texts.return?.())
    // One that waits for its next text would keep the caller waiting as long.
    if (this.#asked) closing.catch(() => undefined)
    else await closing
  }
}

/** Yield the items of as many calls as it takes. */
export async function* answersTo(
  texts: Texts,
  ledger: Ledger,
  line: Line,
  timeout: number,
): AsyncGenerator<StreamItem> {
  const mail = new Mail()
  const source = new Source(texts, mail)
  const stop = () => mail.post({ kind: 'aborted' })
  line.signal.addEventListener('abort', stop, { once: true })
  try {
    while (!(source.ended && ledger.settled)) {
      try {
        yield* oneCall(source, mail, ledger, line, timeout)
      } catch (failure) {
        if (!(failure instanceof CallFailed)) throw failure
        const delay = ledger.delayAfter(failure.error)
        yield* ledger.ready()
        await paused(delay, line.signal)
      }
    }
  } finally {
    line.signal.removeEventListener('abort', stop)
    await source.close()
  }
}

async function* oneCall(
  source: Source,
  mail: Mail,
  ledger: Ledger,
  line: Line,
  timeout: number,
): AsyncGenerator<StreamItem> {
  const call = await opened(line)
  // How long an answer may still be waited for. Only an answer renews it: texts that come give a silent server no more.
  let left = timeout
  try {
    for (const message of ledger.opening()) call.write(message)
    if (source.ended) call.end()
    void read(call, mail)
    for (;;) {
      line.signal.throwIfAborted()
      if (ledger.hasRoom) void source.ask()
      // While nothing is unanswered, the texts are what is waited for, and they may take their time.
      const idle = ledger.settled && !source.ended
      const began = performance.now()
      const event = await mail.take(idle ? Infinity : left)
      if (!idle) left -= performance.now() - began
      if (event.kind === 'late') throw ledger.stalled(line.unconnected())
      if (event.kind === 'broken') throw event.error
      if (event.kind === 'text') {
        source.taken(event.text)
        const message = event.text.done ? undefined : ledger.add(event.text.value)
        if (message) call.write(message)
        if (event.text.done) call.end()
      } else if (event.kind === 'failed' && event.call === call) {
        throw new CallFailed(line.error(event.failure))
      } else if (event.kind === 'answer' && event.call === call) {
        if (event.answer === undefined) {
          if (source.ended && ledger.settled) return
          throw new CallFailed(ledger.endedEarly())
        }
        ledger.take(event.answer)
        left = timeout
        void read(call, mail)
      } // what is left of a call before is of no use
      yield* ledger.ready()
    }
  } finally {
    call.cancel()
  }
}

/** A call. That there is no way to the server, its name unknown for a moment say, is a call that failed. */
async function opened(line: Line): Promise<Call> {
  try {
    return await line.open()
  } catch (failure) {
    line.signal.throwIfAborted()
    throw new CallFailed(line.error(failure))
  }
}

/** See to it that the next answer comes by mail. */
async function read(call: Call, mail: Mail): Promise<void> {
  try {
    mail.post({ kind: 'answer', call, answer: await call.next() })
  } catch (failure) {
    mail.post({ kind: 'failed', call, failure })
  }
}

/** Wait. Rejects with the signal's reason. */
export async function paused(milliseconds: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(milliseconds, undefined, { signal })
  } catch {
    signal.throwIfAborted()
  }
}
