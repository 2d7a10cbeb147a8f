// The gateway's calls: ProtoJSON in, ProtoJSON out, errors as one kind. See /docs.

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

/** The token is kept for the tab, and goes nowhere but to this gateway. */
export function forgetToken() {
  sessionStorage.removeItem(TOKEN)
}

/**
 * One call, `search` or `top-activations`. `body` is the request as the contract has it. Resolves to the answer;
 * rejects with an ApiError, or with the AbortError of `signal`.
 */
export async function call(name, body = {}, { signal } = {}) {
  for (let asked = false; ; asked = true) {
    const answer = await send(name, body, signal)
    if (answer.status !== 401 || !askForToken) return read(answer)
    const token = await askForToken(asked || sessionStorage.getItem(TOKEN) !== null)
    if (token === null) return read(answer)
    sessionStorage.setItem(TOKEN, token)
  }
}

async function send(name, body, signal) {
  const headers = { 'content-type': 'application/json' }
  const token = sessionStorage.getItem(TOKEN)
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
  if (answer.ok && said !== null) return said
  throw new ApiError({
    http: answer.status,
    message: `no answer that can be read (HTTP ${answer.status})`,
    ...said?.error,
  })
}

// What is served does not change while a server runs, and the page asks often.
const kept = new Map()

/** The same, once for the life of the page: for `list-sources` and `get-server-info`. */
export function callOnce(name) {
  if (!kept.has(name)) {
    const asked = call(name)
    kept.set(name, asked)
    asked.catch(() => kept.delete(name))
  }
  return kept.get(name)
}
