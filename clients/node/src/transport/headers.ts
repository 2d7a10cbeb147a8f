/** The headers of a call: the caller's, and a request id for each. */

import { randomBytes } from 'node:crypto'
import { Metadata } from '@grpc/grpc-js'
import { shown } from '../arguments/numbers.js'

const REQUEST_ID = 'x-request-id'
const PRINTABLE = /^[\x20-\x7e]*$/

/** Headers of a call by their names; those that end in `-bin` carry bytes. */
export type Headers = Readonly<Record<string, string | Uint8Array>>

/** A bearer token, or what gives one for each call, for tokens that change. */
export type Token = string | (() => string | Promise<string>)

/** Raises TypeError for what cannot be a header. Its value is not shown: it may be a secret. */
export function checked(headers: Headers, what = 'metadata'): Headers {
  for (const [name, value] of Object.entries(headers)) {
    if (!/^[0-9a-z_.-]+$/i.test(name)) {
      throw new TypeError(`${what}: ${shown(name)} is no name of a header: expected letters, digits, '-', '_' and '.'`)
    }
    const binary = name.toLowerCase().endsWith('-bin')
    if (binary !== value instanceof Uint8Array || (!binary && !(typeof value === 'string' && PRINTABLE.test(value)))) {
      throw new TypeError(`${what}: ${name} is no printable ASCII; names that end in -bin carry bytes`)
    }
  }
  return headers
}

/** Who calls, as a header. Throws TypeError for a name that the server would not take. */
export function named(clientName: string | undefined): Headers {
  if (!clientName) return {}
  if (typeof clientName !== 'string' || clientName.length > 64 || !PRINTABLE.test(clientName)) {
    throw new TypeError(`clientName is ${shown(clientName)}, not of at most 64 printable ASCII characters`)
  }
  return { 'x-saeserve-client': clientName }
}

/** A token as a header. Throws TypeError for what cannot be one, without showing it. */
export function bearer(token: string): Headers {
  if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token.trim())) {
    throw new TypeError('token: a token is one word of printable ASCII characters')
  }
  return { authorization: `Bearer ${token.trim()}` }
}

/** All headers as gRPC takes them; later ones win. Calls that time out can be found by their request id too. */
export function metadata(
  all: readonly Headers[],
  requestId: string | undefined,
): { sent: Metadata; requestId: string } {
  const sent = new Metadata()
  for (const headers of all) {
    for (const [name, value] of Object.entries(headers)) {
      sent.set(name, typeof value === 'string' ? value : Buffer.from(value))
    }
  }
  if (requestId !== undefined) sent.set(REQUEST_ID, checked({ requestId }, 'requestId')['requestId'] as string)
  if (sent.get(REQUEST_ID).length === 0) sent.set(REQUEST_ID, randomBytes(8).toString('hex'))
  return { sent, requestId: String(sent.get(REQUEST_ID)[0]) }
}
