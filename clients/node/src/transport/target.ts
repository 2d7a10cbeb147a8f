/** Where to connect: what a caller wrote, as gRPC takes it. */

import { lookup } from 'node:dns/promises'
import { isIP, isIPv4 } from 'node:net'
import { status as Code } from '@grpc/grpc-js'
import { shown } from '../arguments/numbers.js'
import { Unavailable } from './errors.js'

export const DEFAULT_TARGET = '127.0.0.1:50051'
const EXPECTED = 'HOST:PORT is expected, for example 127.0.0.1:50051'
const LOOPBACK = new Set([
  'localhost',
  'localhost.localdomain',
  'localhost4',
  'localhost6',
  'ip6-localhost',
  'ip6-loopback',
])

interface Place {
  host: string
  port: number
}

/** One server, or several that share the calls. */
export interface Target {
  /** As written, several with commas. */
  given: string
  /** As gRPC takes it; looked up first where several are named. */
  address(): string | Promise<string>
  /** Whether several servers may answer. */
  several: boolean
  /** Whether what is sent stays on this machine. */
  local: boolean
  /** Whether gRPC may go through a proxy that the environment names: not to this machine, nor to a list. */
  proxied: boolean
  /** Of several, the one host that certificates are checked against; undefined where there is none, or one target. */
  host: string | undefined
}

/** One `HOST:PORT`, several (an array, or with commas), or a gRPC name such as `dns:///NAME:PORT` or `unix:PATH`. */
export function parseTarget(given: string | readonly string[]): Target {
  const written = Array.isArray(given) ? given : [given]
  if (written.length === 0 || written.some((one) => typeof one !== 'string')) {
    throw new TypeError(`target is ${shown(given)}; ${EXPECTED}`)
  }
  if (written.length === 1 && /^(dns|ipv4|ipv6|unix):/.test(written[0])) return ofScheme(written[0])
  const parts: string[] = written.flatMap((one) => one.split(',')).map((part) => part.trim())
  const places = parts.map((part) => hostAndPort(part, part))
  const local = places.every(({ host }) => isThisMachine(host))
  const hosts = new Set(places.map(({ host }) => host))
  const several = parts.length > 1
  return {
    given: parts.join(','),
    address: several ? () => listed(places) : () => parts[0]!,
    several,
    local,
    proxied: !local && !several,
    host: several && hosts.size === 1 ? places[0]!.host : undefined,
  }
}

/** Whether a host is this machine under any of its usual names and addresses. Odd spellings count as another's. */
export function isThisMachine(host: string): boolean {
  const name = host
    .toLowerCase()
    .replace(/\.$/, '')
    .replace(/^::ffff:/, '')
  if (LOOPBACK.has(name) || name.endsWith('.localhost')) return true
  return (isIPv4(name) && (name.startsWith('127.') || name === '0.0.0.0')) || name === '::1' || name === '::'
}

function ofScheme(given: string): Target {
  const scheme = given.slice(0, given.indexOf(':'))
  const rest = given.slice(scheme.length + 1)
  const address = () => given
  if (scheme === 'unix') return { given, address, several: false, local: true, proxied: false, host: undefined }
  const path = rest.slice(rest.lastIndexOf('/') + 1)
  const places = path.split(',').map((part) => hostAndPort(part, given))
  const asksAnother = scheme === 'dns' && /^\/\/[^/]/.test(rest) // a name server of the caller's choice
  const local = !asksAnother && places.every(({ host }) => isThisMachine(host))
  const several = scheme === 'dns' || places.length > 1
  return { given, address, several, local, proxied: !local && scheme === 'dns', host: undefined }
}

function hostAndPort(part: string, given: string): Place {
  const found = /^(?:\[([^\]\s]+)\]|([^:\s/[\]]+)):(\d{1,5})$/.exec(part)
  const port = Number(found?.[3])
  if (!found || port < 1 || port > 65535) {
    const why = /^[^[\]]*:[^[\]]*:/.test(part) && !part.includes('://') ? '; an IPv6 address stands in brackets' : ''
    throw new TypeError(`target ${shown(given)} is no address${why}; ${EXPECTED}`)
  }
  return { host: found[1] ?? found[2]!, port }
}

/** Several addresses in gRPC's form, which takes numbers of one family only. Names are looked up, once. */
async function listed(places: readonly Place[]): Promise<string> {
  for (const family of [4, 6] as const) {
    const found = await Promise.all(places.map(({ host, port }) => looked(host, port, family)))
    const addresses = [...new Set(found.flat())]
    if (addresses.length === 0) continue
    const missing = places.filter(({ host }, place) => isIP(host) && found[place]!.length === 0)
    if (missing.length > 0) throw new TypeError('several targets must be all of IPv4 or all of IPv6')
    return `ipv${family}:${addresses.join(',')}`
  }
  const names = places.map(({ host }) => host).join(', ')
  throw new Unavailable(`no address is known of ${names}`, { code: Code.UNAVAILABLE, reason: 'TARGET_NOT_FOUND' })
}

async function looked(host: string, port: number, family: 4 | 6): Promise<string[]> {
  if (isIP(host) && isIP(host) !== family) return []
  try {
    const answers = await lookup(host, { all: true, family })
    return answers.map(({ address }) => (family === 4 ? `${address}:${port}` : `[${address}]:${port}`))
  } catch {
    return []
  }
}
