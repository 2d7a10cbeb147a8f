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

type Event =
  | { kind: 'text'; text: IteratorResult<TextLike> }
  | { kind: 'answer'; answer: EncodeStreamResponse | undefined }
  | { kind: 'failed'; failure: unknown }
  | { kind: 'late' }

/** The caller's texts, with a memory of their end, and of the one asked for, across calls. */
class Source {
  readonly #texts: Iterator<TextLike> | AsyncIterator<TextLike>
  #pending: Promise<Event> | undefined
  ended = false

  constructor(texts: Texts) {
    this.#texts = Symbol.asyncIterator in texts ? texts[Symbol.asyncIterator]() : texts[Symbol.iterator]()
  }

  next(): Promise<Event> {
    this.#pending ??= Promise.resolve(this.#texts.next()).then((text) => ({ kind: 'text', text }))
    return this.#pending
  }

  taken(text: IteratorResult<TextLike>): void {
    this.#pending = undefined
    this.ended = text.done === true
  }

  async close(): Promise<void> {
    // One that waits for its next text would keep the caller waiting as long.
    const closing = this.ended ? undefined : this.#texts.return?.()
    if (this.#pending === undefined) await closing
    else Promise.resolve(closing).catch(() => undefined)
  }
}

/** Yield the items of as many calls as it takes. */
export async function* answersTo(texts: Texts, ledger: Ledger, line: Line, timeout: number): AsyncGenerator<StreamItem> {
  const source = new Source(texts)
  try {
    while (!(source.ended && ledger.settled)) {
      try {
        yield* oneCall(source, ledger, line, timeout)
      } catch (failure) {
        if (!(failure instanceof CallFailed)) throw failure
        const delay = ledger.delayAfter(failure.error)
        yield* ledger.ready()
        await paused(delay, line.signal)
      }
    }
  } finally {
    await source.close()
  }
}

async function* oneCall(source: Source, ledger: Ledger, line: Line, timeout: number): AsyncGenerator<StreamItem> {
  const answers = await line.open()
  const timer = new Timer(timeout)
  const stopped = aborted(line.signal)
  try {
    for (const message of ledger.opening()) answers.write(message)
    if (source.ended) answers.end()
    let reading = read(answers)
    for (;;) {
      const events = [reading, stopped.promise]
      if (!source.ended && ledger.hasRoom) events.push(source.next())
      // While nothing is unanswered, the texts are what is waited for, and they may take their time.
      if (!ledger.settled || source.ended) events.push(timer.passed())
      const event = await Promise.race(events)
      timer.stop()
      if (event.kind === 'late') throw ledger.stalled(line.unconnected())
      if (event.kind === 'failed') throw new CallFailed(line.error(event.failure))
      if (event.kind === 'text') {
        source.taken(event.text)
        const message = event.text.done ? undefined : ledger.add(event.text.value)
        if (message) answers.write(message)
        if (event.text.done) answers.end()
      } else if (event.answer === undefined) {
        if (source.ended && ledger.settled) return
        throw new CallFailed(ledger.endedEarly())
      } else {
        ledger.take(event.answer)
        reading = read(answers)
      }
      yield* ledger.ready()
    }
  } finally {
    timer.stop()
    stopped.stop()
    answers.cancel()
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

function read(answers: Answers<EncodeStreamRequest, EncodeStreamResponse>): Promise<Event> {
  return answers.next().then(
    (answer) => ({ kind: 'answer', answer }),
    (failure: unknown) => ({ kind: 'failed', failure }),
  )
}

/** Rejects when the signal does, until it is stopped. */
function aborted(signal: AbortSignal): { promise: Promise<Event>; stop: () => void } {
  let listener = () => {}
  const promise = new Promise<Event>((_, reject) => {
    listener = () => reject(signal.reason)
    if (signal.aborted) listener()
    else signal.addEventListener('abort', listener, { once: true })
  })
  promise.catch(() => undefined) // told by whoever waits
  return { promise, stop: () => signal.removeEventListener('abort', listener) }
}

/** The longest wait for the next answer. */
class Timer {
  #running: NodeJS.Timeout | undefined

  constructor(private readonly timeout: number) {}

  /** Resolves after the timeout; never for none, or for one that a timer cannot hold (24 days). */
  passed(): Promise<Event> {
    return new Promise((resolve) => {
      if (this.timeout < 2 ** 31) this.#running = setTimeout(() => resolve({ kind: 'late' }), this.timeout)
    })
  }

  stop(): void {
    clearTimeout(this.#running)
  }
}
