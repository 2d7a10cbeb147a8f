/** Why there is no connection, in plain words, with what to try. gRPC's own words stand behind them. */

import { status as Code } from '@grpc/grpc-js'
import type { SaeserveError } from './errors.js'

// What grpc-js says, the reason and the words: by the first that matches. `@` is the target.
const CAUSES: readonly (readonly [RegExp, string, string])[] = [
  [/unix.*ENOENT|ENOENT.*unix|connect ENOENT/, 'SOCKET_MISSING', 'there is no socket @: has the server started?'],
  [/EACCES/, 'SOCKET_FORBIDDEN', "this user may not use the socket @: its file's permissions say who may"],
  [/ECONNREFUSED/, 'CONNECTION_REFUSED', 'nothing listens at @: has the server started, and is this its port?'],
  [
    /Name resolution failed|ENOTFOUND|EAI_AGAIN|DNS/,
    'TARGET_NOT_FOUND',
    'no address is known of @: is the name right, and does the name server know it?',
  ],
  [/EHOSTUNREACH|ENETUNREACH/, 'HOST_UNREACHABLE', 'no way leads to @: is the address right?'],
  [/ETIMEDOUT/, 'CONNECT_TIMEOUT', '@ does not answer: is the address right, and does a firewall let it through?'],
  [
    /wrong version number|packet length too long/i,
    'SERVER_NOT_TLS',
    '@ does not speak TLS: leave out tls, ca, cert and key',
  ],
  [/certificate (has expired|is not yet valid)/, 'CERTIFICATE_NOT_VALID', 'the certificate of @ is not valid now'],
  [
    /self[- ]signed certificate|unable to (verify|get local issuer|get issuer)/i,
    'CERTIFICATE_NOT_TRUSTED',
    "the certificate of @ is signed by no authority that is trusted here: give its authority's as ca",
  ],
  [
    /does not match certificate|ERR_TLS_CERT_ALTNAME/i,
    'CERTIFICATE_NAME',
    'the certificate of @ is for another name: connect by that name, or give it as serverName',
  ],
  [/tlsv1|sslv3|SSL routines|alert number/i, 'TLS_FAILED', '@ and this client could not agree on TLS'],
  [
    /ECONNRESET|EPIPE|socket hang up|Connection (dropped|closed)|GOAWAY|session closed/i,
    'CONNECTION_CLOSED',
    '@ closed the connection: has the server ended, or does it want TLS (tls, or ca)?',
  ],
  [
    /Protocol error|ERR_HTTP2|Received HTTP status/i,
    'NOT_GRPC',
    "@ does not speak gRPC: is this another service's port?",
  ],
  [
    /[Uu]nknown (service|method)|[Mm]ethod not found/,
    'OTHER_SERVICE',
    'the gRPC server at @ does not know this call: it is another service, or older than this client',
  ],
]
const CODES = new Set([Code.UNAVAILABLE, Code.UNIMPLEMENTED, Code.UNKNOWN, Code.INTERNAL])

/** The error with words of our own where no server of ours has said what is wrong: its reason is empty then. */
export function explained(error: SaeserveError, target: string): SaeserveError {
  if (error.reason || !CODES.has(error.code)) return error
  const said = error.message
  const found = CAUSES.find(([pattern]) => pattern.test(said))
  if (found) {
    error.reason = found[1]
    error.message = `${found[2].replace('@', target)} (gRPC: ${said})`
  } else if (error.code === Code.UNAVAILABLE) {
    error.message = `${target} does not answer (gRPC: ${said || 'no details'})`
  }
  return error
}

/** What is said of a call whose time ran out before there was a connection. */
export function noConnection(target: string): string {
  return (
    `there is no connection to ${target}: is the address right, is it another service's port, ` +
    'or does a firewall not let it through?'
  )
}
