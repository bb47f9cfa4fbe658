// Where the service under test is, as the harness says it.

export const endpointUrl = process.env.ENDPOINT
export const accessToken = process.env.TOKEN
export const gateway = process.env.GATEWAY
