/** Deadlines, retries, signals, closing, several servers, TLS and tokens, against servers of the tests' own. */

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import * as grpc from '@grpc/grpc-js'
import { Client, DeadlineExceeded, ResourceExhausted, Unavailable } from 'saeserve'
import { answering, EMPTY, refusal, refused, serve, using } from './support.js'

const BUSY = refused(grpc.status.RESOURCE_EXHAUSTED, 'OVERLOADED', 'too much is waiting', 40)
const LOADING = refused(grpc.status.UNAVAILABLE, 'LOADING', 'the model is being loaded', 60_000)
const SOON = refused(grpc.status.UNAVAILABLE, 'LOADING', 'the model is being loaded', 5000)
const never = () => undefined

test('what is refused is asked again after the delay that the server names', async (t) => {
  const { handle, seen } = answering(BUSY, BUSY, EMPTY)
  const fake = await serve(t, { tokenize: handle })
  const began = Date.now()
  const answer = await using(new Client(fake.target), (client) => client.tokenize('red'))
  assert.equal(answer.callInfo.requestId, 'fake')
  assert.equal(seen.length, 3)
  assert.ok(Date.now() - began >= 80, `${Date.now() - began} ms`)
  // One call, one name in the log, however often it is sent.
  assert.equal(new Set(seen.map((metadata) => metadata.get('x-request-id')[0])).size, 1)
})

test('five times and no more; once if it is told so', async (t) => {
  for (const [options, times] of [
    [{}, 5],
    [{ maxAttempts: 1 }, 1],
  ] as const) {
    const { handle, seen } = answering(refused(grpc.status.RESOURCE_EXHAUSTED, 'OVERLOADED', 'busy', 1))
    const fake = await serve(t, { tokenize: handle })
    const error = await using(new Client(fake.target, options), (client) => refusal(client.tokenize('red')))
    assert.ok(error instanceof ResourceExhausted)
    assert.deepEqual([error.reason, error.retryDelayMs, seen.length], ['OVERLOADED', 1, times])
  }
})

test('a deadline that leaves no time for another attempt does not hide why', async (t) => {
  const { handle, seen } = answering(LOADING)
  const fake = await serve(t, { tokenize: handle })
  const error = await using(new Client(fake.target), (client) => refusal(client.tokenize('red', { timeoutMs: 10_000 })))
  assert.ok(error instanceof Unavailable)
  assert.equal(error.reason, 'LOADING')
  assert.match(error.message, /the timeout of 10 s leaves no time to ask again; waitReady\(\) waits/)
  assert.equal(seen.length, 1)
})

test('what will not pass is asked once', async (t) => {
  const { handle, seen } = answering(refused(grpc.status.NOT_FOUND, 'SOURCE_NOT_FOUND', 'no such source'))
  const fake = await serve(t, { tokenize: handle })
  assert.equal(
    (await using(new Client(fake.target), (client) => refusal(client.tokenize('red')))).reason,
    'SOURCE_NOT_FOUND',
  )
  assert.equal(seen.length, 1)
})

test('a call that is not answered ends with its timeout, and the server is told', async (t) => {
  const gone = new Promise<void>((resolve) => {
    void serve(t, { tokenize: (call: grpc.ServerUnaryCall<never, never>) => void call.on('cancelled', resolve) }).then(
      async (fake) => {
        const client = new Client(fake.target, { timeoutMs: 1000 })
        const error = await refusal(client.tokenize('red'))
        assert.ok(error instanceof DeadlineExceeded)
        assert.equal(error.message, 'no answer within 1 s')
        client.close()
      },
    )
  })
  await gone
})

test('where nothing listens the error says so', async () => {
  const error = await using(new Client('127.0.0.1:1', { maxAttempts: 2 }), (client) => refusal(client.tokenize('red')))
  assert.deepEqual([error.name, error.reason], ['Unavailable', 'CONNECTION_REFUSED'])
  assert.match(error.message, /^nothing listens at 127.0.0.1:1: has the server started/)
})

test('where something else listens, the error says that there is no connection', async () => {
  const sockets: Socket[] = []
  const silent = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1')
  await new Promise((resolve) => silent.once('listening', resolve))
  const target = `127.0.0.1:${(silent.address() as AddressInfo).port}`
  const error = await using(new Client(target, { timeoutMs: 200 }), (client) => refusal(client.tokenize('red')))
  assert.equal(error.name, 'DeadlineExceeded')
  assert.match(error.message, /^there is no connection to/)
  silent.close()
  for (const socket of sockets) socket.destroy()
})

test('a signal ends a call with its own reason: before, in the call, in the pause between attempts', async (t) => {
  const fake = await serve(t, { tokenize: never, getServerInfo: answering(SOON).handle })
  await using(new Client(fake.target), async (client) => {
    await assert.rejects(client.tokenize('red', { signal: AbortSignal.abort(new Error('mine')) }), { message: 'mine' })
    await assert.rejects(client.tokenize('red', { signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' })
    await assert.rejects(client.serverInfo({ signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' })
    const items = client.encodeStream(['red'], { sources: 0, signal: AbortSignal.timeout(50) })
    await assert.rejects(
      items.next(),
      (error: Error) => error.name === 'TimeoutError' || error.name === 'Unimplemented',
    )
  })
})

test('closing ends what is running, and what comes later', async (t) => {
  const fake = await serve(t, { tokenize: never, encodeStream: never })
  const client = new Client(fake.target)
  const running = [refusal(client.tokenize('red')), refusal(client.encodeStream(['red'], { sources: 0 }).next())]
  setTimeout(() => client.close(), 50)
  for (const error of [...(await Promise.all(running)), await refusal(client.tokenize('red'))]) {
    assert.deepEqual([error.name, error.reason], ['Cancelled', 'CLIENT_CLOSED'])
  }
})

test('waitReady waits for a server that loads, and says what it heard last', async (t) => {
  const info = answering(LOADING)
  const fake = await serve(t, { getServerInfo: info.handle })
  await using(new Client(fake.target), async (client) => {
    const error = await refusal(client.waitReady({ timeoutMs: 1500 }))
    assert.deepEqual([error.name, error.reason], ['DeadlineExceeded', 'LOADING'])
    assert.match(error.message, /is not ready after 1.5 s; it last said: the model is being loaded/)
  })
  assert.ok(info.seen.length >= 2)
})

test('several servers share the calls, and one that drains or is gone leaves them to the others', async (t) => {
  const counts = [answering(EMPTY), answering(EMPTY), answering(LOADING)]
  const fakes = await Promise.all(counts.map(({ handle }) => serve(t, { tokenize: handle })))
  await using(new Client(fakes.map(({ target }) => target)), async (client) => {
    for (let call = 0; call < 12; call++) await client.tokenize('red')
    assert.ok(
      counts.every(({ seen }) => seen.length >= 2),
      String(counts.map(({ seen }) => seen.length)),
    )
    fakes[0]!.stop()
    for (let call = 0; call < 6; call++) await client.tokenize('red')
  })
})

test('names among several servers are looked up', async (t) => {
  const { handle, seen } = answering(EMPTY)
  const fake = await serve(t, { tokenize: handle })
  const port = fake.target.split(':')[1]
  await using(new Client(`localhost:${port}, 127.0.0.1:${port}`), (client) => client.tokenize('red'))
  assert.equal(seen.length, 1)
  const none = await using(new Client('none.invalid:1,none.invalid:2', { maxAttempts: 1 }), (client) =>
    refusal(client.tokenize('red')),
  )
  assert.deepEqual([none.name, none.reason], ['Unavailable', 'TARGET_NOT_FOUND'])
})

test('a look-up, and a token that does not come, are bounded by the deadline and the signal', async () => {
  const token = () => new Promise<string>(never)
  await using(new Client('127.0.0.1:1', { token, timeoutMs: 100 }), async (client) => {
    assert.equal((await refusal(client.tokenize('red'))).name, 'DeadlineExceeded')
    const stop = new AbortController()
    setTimeout(() => stop.abort(new Error('mine')), 20)
    await assert.rejects(client.tokenize('red', { signal: stop.signal, timeoutMs: Infinity }), { message: 'mine' })
    const items = client.encodeStream(['red'], { sources: 0 })
    assert.equal((await refusal(items.next())).name, 'DeadlineExceeded')
  })
})

test('headers: the client, the token of the moment, the request', async (t) => {
  const { handle, seen } = answering(EMPTY)
  const fake = await serve(t, { tokenize: handle })
  let token = 'first'
  const client = new Client(fake.target, { clientName: 'me', token: () => token, metadata: { 'x-one': '1' } })
  await client.tokenize('red', { metadata: { 'x-two': '2' }, requestId: 'mine' })
  token = 'second'
  await client.tokenize('red')
  client.close()
  const sent = (name: string) => seen.map((metadata) => metadata.get(name)[0])
  assert.deepEqual(sent('x-saeserve-client'), ['me', 'me'])
  assert.deepEqual(sent('authorization'), ['Bearer first', 'Bearer second'])
  assert.deepEqual(
    [sent('x-one'), sent('x-two')],
    [
      ['1', '1'],
      ['2', undefined],
    ],
  )
  assert.equal(sent('x-request-id')[0], 'mine')
  assert.match(String(sent('user-agent')[0]), /^saeserve-node\/\d/)
})

test('an answer without what is always there, or over the limit, is refused', async (t) => {
  const { handle } = answering({}, { ...EMPTY, tokens: [{ display: 'x'.repeat(5000) }] })
  const fake = await serve(t, { tokenize: handle })
  await using(new Client(fake.target, { maxMessageBytes: 4000 }), async (client) => {
    assert.deepEqual(
      (await refusal(client.tokenize('red'))).message,
      "the server's answer does not fit together: TokenizeResponse has no call_info",
    )
    const large = await refusal(client.tokenize('red'))
    assert.deepEqual([large.name, large.reason], ['ResourceExhausted', 'OVER_MAX_MESSAGE_BYTES'])
  })
})

test('a server of another kind is named as such', async (t) => {
  const fake = await serve(t, {})
  const error = await using(new Client(fake.target), (client) => refusal(client.tokenize('red')))
  assert.equal(error.name, 'Unimplemented')
})

const OPENSSL = (() => {
  try {
    return execFileSync('openssl', ['version']).length > 0
  } catch {
    return false
  }
})()

test(
  'TLS: who is trusted, whose name it is, who asks',
  { skip: OPENSSL ? false : 'openssl is not installed' },
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'saeserve-node-'))
    const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
    const made = [
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '2',
      '-keyout',
      key,
      '-out',
      cert,
    ]
    const name = ['-subj', '/CN=saeserve.test', '-addext', 'subjectAltName=DNS:saeserve.test']
    execFileSync('openssl', ['req', '-x509', ...made, ...name], { stdio: 'ignore' })
    const [ca, own] = [readFileSync(cert), readFileSync(key)]
    rmSync(folder, { recursive: true })
    const { handle, seen } = answering(EMPTY)
    const pair = { cert_chain: ca, private_key: own }
    const fake = await serve(t, { tokenize: handle }, grpc.ServerCredentials.createSsl(ca, [pair], true))
    const ask = (options: object) =>
      using(new Client(fake.target, { ...options, maxAttempts: 1 }), (client) =>
        client.tokenize('red', { timeoutMs: 20_000 }),
      )
    const mine = { ca, cert: ca, key: own, token: 'secret' }
    await ask({ ...mine, serverName: 'saeserve.test' })
    assert.deepEqual(seen[0]!.get('authorization'), ['Bearer secret'])
    assert.equal((await refusal(ask({ tls: true }))).reason, 'CERTIFICATE_NOT_TRUSTED')
    assert.equal((await refusal(ask({ ca }))).reason, 'CERTIFICATE_NAME')
    assert.ok((await refusal(ask({ ca, serverName: 'saeserve.test' }))) instanceof Unavailable)
    assert.equal((await refusal(ask({}))).name, 'Unavailable')
    assert.throws(() => new Client(fake.target, { cert: ca, key: 'none' }), { message: /^key: not a private key/ })
    const plain = await serve(t, { tokenize: handle })
    const error = await using(new Client(plain.target, { tls: true, maxAttempts: 1 }), (client) =>
      refusal(client.tokenize('red')),
    )
    assert.equal(error.reason, 'SERVER_NOT_TLS')
  },
)
