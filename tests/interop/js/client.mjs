// @ipfs-shipyard/pinning-service-client, and the pins that its programs make here.

import assert from 'node:assert/strict'
import { Configuration, RemotePinningServiceClient } from '@ipfs-shipyard/pinning-service-client'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { identity } from 'multiformats/hashes/identity'
import { sha256 } from 'multiformats/hashes/sha2'
import { accessToken, endpointUrl } from './service.mjs'

export const everyStatus = ['queued', 'pinning', 'pinned', 'failed']

export function clientWith (token) {
  return new RemotePinningServiceClient(new Configuration({ endpointUrl, accessToken: token }))
}

export const client = clientWith(accessToken)

// A CID that carries its content, so that the pin of it is whole without anybody.
export function wholeCid (text) {
  return CID.createV1(raw.code, identity.digest(new TextEncoder().encode(text))).toString()
}

// A CID whose content exists nowhere.
export async function absentCid (text) {
  return CID.createV1(raw.code, await sha256.digest(new TextEncoder().encode(text))).toString()
}

// The client throws what the service answered.
export async function assertRefused (promise, status, reason) {
  const answer = await promise.then(() => assert.fail(`not refused with ${status}`), thrown => thrown.response ?? thrown)
  assert.equal(answer.status, status)
  const { error } = await answer.json()
  assert.equal(error.reason, reason)
}

export async function whenPinned (requestid) {
  const limit = Date.now() + 20_000
  for (;;) {
    const pin = await client.pinsRequestidGet({ requestid })
    if (pin.status === 'pinned') {
      return pin
    }
    assert.ok(pin.status !== 'failed' && Date.now() < limit, `not pinned: ${JSON.stringify(pin)}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

export function requestids (page) {
  return [...page.results].map(pin => pin.requestid)
}
