/** How a client connects: credentials, balancing, keepalive and size limits, from its options. */

import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Client as Channel, type ChannelOptions, credentials, type ChannelCredentials } from '@grpc/grpc-js'
import { milliseconds, whole } from '../arguments/numbers.js'
import { MAX_ATTEMPTS } from './attempts.js'
import { bearer, checked, type Headers, named, type Token } from './headers.js'
import { parseTarget, type Target } from './target.js'

export const DEFAULT_TIMEOUT = 30_000
const DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** PEM, as a text or as it was read from a file. */
export type Pem = string | Uint8Array

/** How to connect, and what is sent with every call. */
export interface ClientOptions {
  /** Milliseconds for a call in all, retries included, unless it says otherwise: 30,000. Infinity: no limit. */
  timeoutMs?: number
  /** How often a call is sent in all, where the server or the way to it may mend: 5. With 1 none is sent again. */
  maxAttempts?: number
  /** Whether to use TLS; so do the four below. By default the connection is plain. */
  tls?: boolean
  /** The authorities to trust, by default those that ship with Node. */
  ca?: Pem
  /** A certificate of the client's own, for a server that asks for one, with its key. */
  cert?: Pem
  key?: Pem
  /** The name that the server's certificate has, if it is not that of the target. */
  serverName?: string
  /** A bearer token, or a function that gives one for each call. Without TLS it is sent to this machine only. */
  token?: Token
  /** Send the token in plain text to another machine too: the way there is secure by other means. */
  allowInsecureToken?: boolean
  /** Who calls: at most 64 printable ASCII characters. A busy server shares itself out among names. */
  clientName?: string
  /** Headers sent with every call. */
  metadata?: Headers
  /** The largest answer accepted, in bytes: 64 MiB. */
  maxMessageBytes?: number
  /** Further options of grpc-js; they win over the client's own. */
  channelOptions?: ChannelOptions
}

/** The address, the credentials and the options of a channel, and the headers of its calls. */
export class Connection {
  readonly target: Target
  readonly timeout: number
  readonly maxAttempts: number
  readonly #credentials: ChannelCredentials
  readonly #options: ChannelOptions
  readonly #headers: Headers[]
  readonly #token: Token | undefined

  /** Throws TypeError and RangeError for options that cannot be meant. */
  constructor(target: string | readonly string[], options: ClientOptions) {
    this.target = parseTarget(target)
    this.timeout = milliseconds(options.timeoutMs ?? DEFAULT_TIMEOUT)
    this.maxAttempts = whole(options.maxAttempts ?? MAX_ATTEMPTS, 'maxAttempts', 1)
    const asked = [options.ca, options.cert, options.key, options.serverName].some((one) => one !== undefined)
    if (options.tls === false && asked)
      throw new TypeError('tls is false, but ca, cert, key and serverName are for TLS')
    const secure = options.tls === true || asked
    const serverName = options.serverName ?? this.target.host
    if (secure && serverName === undefined && this.target.several && this.target.given.includes(',')) {
      throw new TypeError('several addresses over TLS need serverName: the name in their certificates')
    }
    this.#credentials = secure ? overTls(options) : credentials.createInsecure()
    this.#options = channelOptions(this.target, secure ? serverName : undefined, options)
    this.#headers = [checked(options.metadata ?? {}), named(options.clientName)]
    this.#token = options.token
    if (typeof options.token === 'string') bearer(options.token)
    if (options.token !== undefined && !(secure || this.target.local || options.allowInsecureToken === true)) {
      throw new TypeError(
        `the token would go to ${this.target.given} in plain text: use TLS, or allowInsecureToken if the way there ` +
          'is secure by other means',
      )
    }
  }

  /** A channel. Rejects with Unavailable where none of several names is known. */
  async open(): Promise<Channel> {
    return new Channel(await this.target.address(), this.#credentials, this.#options)
  }

  /** The headers of every call; the token is asked for each time. */
  async headers(): Promise<Headers[]> {
    if (this.#token === undefined) return this.#headers
    const token = typeof this.#token === 'string' ? this.#token : await this.#token()
    return [...this.#headers, bearer(token)]
  }
}

function overTls({ ca, cert, key }: ClientOptions): ChannelCredentials {
  if ((cert === undefined) !== (key === undefined)) throw new TypeError('cert and key belong together')
  for (const [name, pem] of Object.entries({ ca, cert })) {
    if (pem === undefined) continue
    try {
      new X509Certificate(pem)
    } catch (cause) {
      throw new TypeError(`${name}: no certificate in PEM: give the file's contents`, { cause })
    }
  }
  const bytes = (pem: Pem | undefined) => (pem === undefined ? null : Buffer.from(pem as Uint8Array))
  try {
    return credentials.createSsl(bytes(ca), bytes(key), bytes(cert))
  } catch (cause) {
    throw new TypeError('key: not a private key in PEM, without a password, of cert', { cause })
  }
}

function channelOptions(target: Target, serverName: string | undefined, options: ClientOptions): ChannelOptions {
  return {
    // Without a retryPolicy: unary calls are repeated by `attempts`, and streams, which gRPC could only repeat from
    // their start, resume with the items not yet answered. A second loop below would multiply attempts.
    'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
    'grpc.max_receive_message_length': whole(
      options.maxMessageBytes ?? DEFAULT_MAX_MESSAGE_BYTES,
      'maxMessageBytes',
      1,
      2 ** 31 - 1,
    ),
    'grpc.primary_user_agent': `saeserve-node/${version}`,
    // The server permits a ping every 10 s, also without calls; more often would bring GOAWAY.
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.keepalive_permit_without_calls': 1,
    // gRPC's own defaults wait up to two minutes for a server that restarts in seconds.
    'grpc.initial_reconnect_backoff_ms': 200,
    'grpc.max_reconnect_backoff_ms': 5_000,
    'grpc.enable_http_proxy': target.proxied ? 1 : 0,
    ...(serverName === undefined
      ? {}
      : { 'grpc.ssl_target_name_override': serverName, 'grpc.default_authority': serverName }),
    ...options.channelOptions,
  }
}
