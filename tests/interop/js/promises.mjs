// What packages below Helia use though Node 20, on which that Helia is to run, doesn't have it yet.

Promise.withResolvers ??= () => {
  const deferred = {}
  deferred.promise = new Promise((resolve, reject) => Object.assign(deferred, { resolve, reject }))
  return deferred
}
