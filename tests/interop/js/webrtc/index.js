// Helia imports these two for its own default transports; a node that is given its transports never calls them.

const absent = () => {
  throw new Error('there is no WebRTC here: give the node its transports')
}

export const webRTC = absent
export const webRTCDirect = absent
