/** Waiting for a server that starts: how long, how often, and what to say if it does not. */

import { status as Code } from '@grpc/grpc-js'
import { seconds } from './attempts.js'
import { DeadlineExceeded, ResourceExhausted, SaeserveError, Unavailable } from './errors.js'

const PAUSE = 100
/** Milliseconds in which a server that is there answers the question. */
const ANSWER = 10_000
/** Reasons that lie in how the client was told to connect. */
const FOR_GOOD = new Set(['SERVER_NOT_TLS', 'CERTIFICATE_NOT_TRUSTED', 'CERTIFICATE_NAME'])

export class Readiness {
  readonly #until: number
  #said = ''

  constructor(
    private readonly target: string,
    private readonly timeout: number,
  ) {
    this.#until = Date.now() + timeout
  }

  /** Milliseconds for the next question; a little even at the end, so that one is always asked. */
  left(): number {
    return Math.min(ANSWER, Math.max(50, this.#until - Date.now()))
  }

  /** Milliseconds to wait before asking again; throws what no waiting can mend, and DeadlineExceeded at the end. */
  pauseAfter(error: unknown): number {
    const late = error instanceof DeadlineExceeded
    const mayPass = late || error instanceof Unavailable || error instanceof ResourceExhausted
    if (!(error instanceof SaeserveError) || !mayPass || FOR_GOOD.has(error.reason)) throw error
    // Of two reasons the better one is kept: that a question went unanswered says less.
    if (!(this.#said && late)) this.#said = `; it last said: ${error.message}`
    if (Date.now() + PAUSE >= this.#until) {
      const message = `${this.target} is not ready after ${seconds(this.timeout)}${this.#said}`
      throw new DeadlineExceeded(message, { code: Code.DEADLINE_EXCEEDED, reason: error.reason, cause: error })
    }
    return PAUSE
  }
}
