// @helia/remote-pinning on a real Helia node: a file of several blocks is pinned, shown, changed and removed.
//
// `LISTEN` is the address that the node listens on; without it nobody can dial the node, as with one in a browser.

import assert from 'node:assert/strict'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { bitswap } from '@helia/block-brokers'
import { heliaWithRemotePins } from '@helia/remote-pinning'
import { unixfs } from '@helia/unixfs'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { createHelia } from 'helia'
import { createLibp2p } from 'libp2p'
import { accessToken, endpointUrl, gateway } from './service.mjs'

const listen = process.env.LISTEN ? [process.env.LISTEN] : []

async function collect (iterable) {
  const items = []
  for await (const item of iterable) {
    items.push(item)
  }
  return items
}

function names (pins) {
  return new Set(pins.map(pin => pin.name))
}

const libp2p = await createLibp2p({
  addresses: { listen },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() }
})
const helia = heliaWithRemotePins(
  await createHelia({ libp2p, blockBrokers: [bitswap()], routers: [] }),
  { endpointUrl, accessToken, pollInterval: 100 }
)
assert.equal(helia.libp2p.getMultiaddrs().length, listen.length, 'the node listens on something else than it was told to')

const files = unixfs(helia)
// Others for each kind of node, or the second would find everything already there.
const bytes = new Uint8Array(3_000_000).map((_, index) => ((index * index) >> 7) + listen.length)
const [file, small] = [await files.addBytes(bytes), await files.addBytes(bytes.subarray(0, 1000))]
const signal = AbortSignal.timeout(30_000)

assert.equal(await helia.pins.isPinned(file), false, 'pinned before it was')
await assert.rejects(helia.pins.get(file), { name: 'NotFoundError' })
const added = await collect(helia.pins.add(file, { name: 'a file', metadata: { of: 'Helia' }, signal }))
assert.deepEqual(added.map(String), [String(file)])
await collect(helia.pins.add(small, { name: 'a small file', metadata: { of: 'Helia', size: 'small' }, signal }))

assert.equal(await helia.pins.isPinned(file), true, 'not pinned afterwards')
const pin = await helia.pins.get(file)
assert.deepEqual([String(pin.cid), pin.status, pin.metadata], [String(file), 'pinned', { of: 'Helia' }])

// `ls` asks for what is newer than the last of a page, so of a service that lists the newest first it shows pins repeatedly.
assert.deepEqual(names(await collect(helia.pins.ls())), new Set(['a file', 'a small file']))
assert.deepEqual(names(await collect(helia.pins.ls({ cid: small }))), new Set(['a small file']))
assert.deepEqual(names(await collect(helia.pins.ls({ name: 'a file' }))), new Set(['a file']))
assert.deepEqual(names(await collect(helia.pins.ls({ name: 'A SMALL', match: 'ipartial' }))), new Set(['a small file']))
assert.deepEqual(names(await collect(helia.pins.ls({ meta: { size: 'small' } }))), new Set(['a small file']))
assert.deepEqual(names(await collect(helia.pins.ls({ status: ['queued', 'pinning', 'failed'] }))), new Set())

// This replaces the pin.
await helia.pins.setMetadata(file, { of: 'nobody' })
assert.deepEqual((await helia.pins.get(file, { status: ['queued', 'pinning', 'pinned'] })).metadata, { of: 'nobody' })

// The service holds each byte, without the node's help.
const blocks = await collect(helia.blockstore.getAll())
await helia.stop()
for (const { cid, block } of blocks) {
  const answer = await fetch(`${gateway}/ipfs/${cid}?format=raw`)
  assert.equal(answer.status, 200, `${cid} is not there`)
  assert.deepEqual(new Uint8Array(await answer.arrayBuffer()), block)
}
assert.ok(blocks.length > 3, `${blocks.length} blocks are no DAG`)

for (const cid of [file, small]) {
  await collect(helia.pins.rm(cid))
  assert.equal(await helia.pins.isPinned(cid), false, 'pinned after it was removed')
}
assert.deepEqual(await collect(helia.pins.ls({ status: ['queued', 'pinning', 'pinned', 'failed'] })), [])
console.log(`${blocks.length} blocks`)
