// A Helia node that has nothing but WebSocket, as one in a browser has to: it dials `ADDRESS` and reads the file `ROOT`, whose bytes have
// the SHA-256 `DIGEST`.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { bitswap } from '@helia/block-brokers'
import { unixfs } from '@helia/unixfs'
import { identify } from '@libp2p/identify'
import { webSockets } from '@libp2p/websockets'
import { multiaddr } from '@multiformats/multiaddr'
import { createHelia } from 'helia'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'

const libp2p = await createLibp2p({
  addresses: { listen: [] },
  transports: [webSockets()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() }
})
const helia = await createHelia({ libp2p, blockBrokers: [bitswap()], routers: [] })
const signal = AbortSignal.timeout(60_000)
const connection = await libp2p.dial(multiaddr(process.env.ADDRESS), { signal })

const digest = createHash('sha256')
let length = 0
for await (const bytes of unixfs(helia).cat(CID.parse(process.env.ROOT), { signal })) {
  digest.update(bytes)
  length += bytes.length
}
assert.equal(digest.digest('hex'), process.env.DIGEST)
assert.equal(connection.status, 'open')
await helia.stop()
console.log(`${length} bytes over ${connection.remoteAddr}`)
