/**
 * The one retry policy of a unary call: how often it is sent, how long it waits, and what is thrown in the end.
 *
 * gRPC could retry by itself, by a policy in the service config, and would keep to the server's delay too. But a
 * deadline that passes between two of its attempts gives DEADLINE_EXCEEDED, and hides why they failed.
 */

import { status as Code } from '@grpc/grpc-js'
import { DeadlineExceeded, type SaeserveError } from './errors.js'

export const MAX_ATTEMPTS = 5
/** Milliseconds before the first retry where the server names no delay; doubles with each. */
export const INITIAL_BACKOFF = 100
export const MAX_BACKOFF = 2000

/** Whether the same call may succeed later. */
export function worthAnother(error: SaeserveError): boolean {
  const mayPass = error.code === Code.UNAVAILABLE || error.code === Code.RESOURCE_EXHAUSTED
  return mayPass && error.reason !== 'OVER_MAX_MESSAGE_BYTES'
}

/** A pause that callers at the same moment do not share. */
export function jittered(pause: number): number {
  return pause * (0.8 + 0.4 * Math.random())
}

/** Words for what a timeout was. */
export function seconds(milliseconds: number): string {
  return `${Number((milliseconds / 1000).toPrecision(6))} s`
}

/** The error with what to do where the server loads. */
export function advised(error: SaeserveError): SaeserveError {
  if (error.reason === 'LOADING') error.message += '; waitReady() waits until it has loaded'
  return error
}

/** The attempts of one call. */
export class Attempts {
  readonly #until: number
  #made = 0
  #last: SaeserveError | undefined

  /** `timeout` in milliseconds is for all attempts together. `several`: another server may answer where one cannot. */
  constructor(
    readonly timeout: number,
    private readonly most: number,
    private readonly several: boolean,
  ) {
    this.#until = Date.now() + timeout
  }

  /** When the call is over, in milliseconds of the clock; Infinity for never. */
  get deadline(): number {
    return this.#until
  }

  /** Milliseconds to wait before the next attempt; throws what the caller gets where there is none. */
  pauseAfter(error: SaeserveError): number {
    this.#made += 1
    if (error instanceof DeadlineExceeded) {
      if (this.#last !== undefined) {
        error.message += `; the attempt before was refused: ${this.#last.message}`
        error.reason ||= this.#last.reason
      }
      throw advised(error)
    }
    if (!worthAnother(error) || this.#made >= this.most) throw advised(error)
    this.#last = error
    let pause = jittered(Math.min(MAX_BACKOFF, INITIAL_BACKOFF * 2 ** (this.#made - 1)))
    // The delay is that of the server which refused. Of several, one that loads or drains is not the next to be asked.
    const another = this.several && error.code === Code.UNAVAILABLE
    if (error.retryDelayMs !== undefined) pause = another ? Math.min(pause, error.retryDelayMs) : error.retryDelayMs
    if (Date.now() + pause >= this.#until) {
      error.message += `; the timeout of ${seconds(this.timeout)} leaves no time to ask again`
      throw advised(error)
    }
    return pause
  }
}
