// The gateway's calls: ProtoJSON in, ProtoJSON out, errors as one kind. See /docs.

import { forget, keep, kept } from './storage.js'

const TOKEN = 'saeserve-token'
const BASE = 'api/v1/'

/** What the service, or the way to it, did not answer. */
export class ApiError extends Error {
  /** `http` is the status, 0 where there is no gateway. */
  constructor({
    http,
    status = '',
    reason = '',
    message,
    fieldViolations = [],
    retryDelaySeconds = null,
    requestId = '',
  }) {
    super(message)
    Object.assign(this, { http, status, reason, violations: fieldViolations, retryDelay: retryDelaySeconds, requestId })
  }
}

let askForToken = null

/** Who is asked where the server wants a token: a function that resolves to it, or to null if none is given. */
export function onTokenNeeded(ask) {
  askForToken = ask
}

let tellExchanged = null

/** What is called, once, when an answer is of another model, index or version of the server than those before it. */
export function onExchanged(tell) {
  tellExchanged = tell
}

/** Whether a token can stand in the head of a request: one word of printable ASCII, as gateway and server take it. */
export function sendable(token) {
  return /^[\x21-\x7e]+$/.test(token)
}

// The token is kept for the tab, and goes nowhere but to this gateway.
function keptToken() {
  const token = kept(TOKEN)
  if (token === null || sendable(token)) return token
  forget(TOKEN)
  return null
}

/**
 * One call, `search` or `top-activations`. `body` is the request as the contract has it. Resolves to the answer;
 * rejects with an ApiError, or with the AbortError of `signal`.
 */
export async function call(name, body = {}, { signal } = {}) {
  for (;;) {
    const token = keptToken()
    const answer = await send(name, body, token, signal)
    if (answer.status !== 401 || !askForToken) return read(answer)
    const now = keptToken()
    if (now !== null && now !== token) continue // another call was given a token meanwhile
    forget(TOKEN) // it was refused
    const given = await askForToken(token !== null)
    if (given === null) return read(answer)
    keep(TOKEN, given)
  }
}

async function send(name, body, token, signal) {
  const headers = { 'content-type': 'application/json' }
  if (token !== null) headers.authorization = `Bearer ${token}`
  try {
    return await fetch(BASE + name, { method: 'POST', headers, body: JSON.stringify(body), signal })
  } catch (failure) {
    if (failure.name === 'AbortError') throw failure
    throw new ApiError({
      http: 0,
      status: 'UNAVAILABLE',
      message: 'The gateway cannot be reached: is `saeserve web` still running, and the network up?',
    })
  }
}

async function read(answer) {
  let said = null
  try {
    said = await answer.json()
  } catch (failure) {
    if (failure.name === 'AbortError') throw failure
  }
  if (answer.ok && said !== null) {
    watch(said.callInfo)
    return said
  }
  throw new ApiError({
    http: answer.status,
    message: `no answer that can be read (HTTP ${answer.status})`,
    ...said?.error,
  })
}

let before = null // by whom the first answer was given

// A server may be exchanged for another while the page is open; what `callOnce` was told then no longer holds.
function watch(info) {
  if (!info?.modelRevision) return
  const by = JSON.stringify([info.modelRevision, info.indexRevision, info.serverVersion])
  before ??= by
  if (by === before) return
  tellExchanged?.()
  tellExchanged = null
}

// What is served does not change while a server runs, and the page asks often.
const answered = new Map()

/** The same, once for the life of the page: for `list-sources` and `get-server-info`. */
export function callOnce(name) {
  if (!answered.has(name)) {
    const asked = call(name)
    answered.set(name, asked)
    asked.catch(() => answered.delete(name))
  }
  return answered.get(name)
}
