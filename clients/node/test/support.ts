/** What tests share: the running server, what a call is refused with, and servers that say what they are told. */

import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf'
import { anyPack, durationFromMs } from '@bufbuild/protobuf/wkt'
import * as grpc from '@grpc/grpc-js'
import { Client, FeatureService, SaeserveError } from 'saeserve'
import { ErrorInfoSchema, RetryInfoSchema } from '#gen/google/rpc/error_details_pb.js'
import { StatusSchema } from '#gen/google/rpc/status_pb.js'

/** The server that all tests ask; those of it are skipped where there is none. */
export const TARGET = process.env['SAESERVE_TARGET'] ?? ''
export const needsServer = TARGET ? {} : { skip: 'SAESERVE_TARGET names no server' }

/** The error that a call rejects with. */
export async function refusal(call: Promise<unknown>): Promise<SaeserveError> {
  try {
    await call
  } catch (error) {
    assert.ok(error instanceof SaeserveError, String((error as Error).stack))
    return error
  }
  throw new assert.AssertionError({ message: 'the call was answered' })
}

/** Activations of one text differ in their last bits by what shares its batch. */
export function assertClose(got: Float32Array, wanted: Float32Array): void {
  assert.equal(got.length, wanted.length)
  for (const [place, value] of got.entries()) {
    assert.ok(Math.abs(value - wanted[place]!) < 1e-4, `${value} and ${wanted[place]} at ${place}`)
  }
}

/** A refusal as a server sends it. */
export function refused(code: grpc.status, reason: string, message: string, pushbackMs?: number): grpc.StatusObject {
  const details = [anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain: 'saeserve.dev' }))]
  const metadata = new grpc.Metadata()
  if (pushbackMs !== undefined) {
    const retry = create(RetryInfoSchema, { retryDelay: durationFromMs(pushbackMs) })
    details.push(anyPack(RetryInfoSchema, retry))
    metadata.set('grpc-retry-pushback-ms', String(pushbackMs))
  }
  const status = create(StatusSchema, { code, message, details })
  metadata.set('grpc-status-details-bin', Buffer.from(toBinary(StatusSchema, status)))
  return { code, details: message, metadata }
}

type Method = keyof typeof FeatureService.method

/** The service's methods as grpc-js wants them described. */
const definition = Object.fromEntries(
  Object.entries(FeatureService.method).map(([name, method]) => [
    name,
    {
      path: `/${FeatureService.typeName}/${method.name}`,
      requestStream: method.methodKind !== 'unary',
      responseStream: method.methodKind === 'bidi_streaming',
      requestSerialize: (value: never) => Buffer.from(toBinary(method.input, value)),
      requestDeserialize: (bytes: Buffer) => fromBinary(method.input, bytes),
      responseSerialize: (value: never) => Buffer.from(toBinary(method.output, value)),
      responseDeserialize: (bytes: Buffer) => fromBinary(method.output, bytes),
    },
  ]),
)

/** What grpc-js calls: one, with the request and what to answer with, or with a stream both ways. */
export type Handler = (call: any, done: grpc.sendUnaryData<unknown>) => void

export interface Fake {
  target: string
  stop(): void
}

/** A server of the test's own, which ends with it; methods that it is not given are UNIMPLEMENTED. */
export async function serve(
  t: TestContext,
  methods: Partial<Record<Method, Handler>>,
  credentials = grpc.ServerCredentials.createInsecure(),
  address = '127.0.0.1:0',
): Promise<Fake> {
  const server = new grpc.Server()
  server.addService(definition as grpc.ServiceDefinition, methods as unknown as grpc.UntypedServiceImplementation)
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, credentials, (error, bound) => (error ? reject(error) : resolve(bound)))
  })
  const stop = () => server.forceShutdown()
  t.after(stop)
  return { target: `127.0.0.1:${port}`, stop }
}

/** A unary method that answers with these, one after another, the last again and again. Counts the calls. */
export function answering(
  ...answers: (grpc.StatusObject | MessageInitShape<typeof FeatureService.method.tokenize.output>)[]
) {
  const seen: grpc.Metadata[] = []
  const handle = (call: grpc.ServerUnaryCall<never, unknown>, done: grpc.sendUnaryData<unknown>) => {
    const answer = answers[Math.min(seen.length, answers.length - 1)]!
    seen.push(call.metadata)
    if ('code' in answer) done(answer)
    else done(null, create(FeatureService.method.tokenize.output, answer))
  }
  return { handle, seen }
}

/** An answer that says nothing. */
export const EMPTY = { callInfo: { requestId: 'fake' }, tokens: [] }

/** Make a client, give it to a test, close it. */
export async function using<T>(client: Client, work: (client: Client) => Promise<T>): Promise<T> {
  try {
    return await work(client)
  } finally {
    client.close()
  }
}
