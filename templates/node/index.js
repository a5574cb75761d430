'use strict'

// Serves the handler of function/handler.js.

const { FunctionContext, FunctionEvent } = require('./watchdog/handler')
const { load } = require('./watchdog/loader')
const { readOptions } = require('./watchdog/options')
const { Watchdog } = require('./watchdog/server')

async function main() {
  // As process 1 we would not see a SIGTERM without a handler; nothing is in flight yet.
  const leave = () => process.exit(0)
  process.on('SIGTERM', leave)
  const options = readOptions(process.env)
  const handler = await load('function')
  const watchdog = new Watchdog(options, (request) => {
    const context = new FunctionContext()
    return context.run(handler, new FunctionEvent(request))
  })
  await watchdog.listen()
  process.off('SIGTERM', leave)
}

main().catch((error) => {
  if (error.cause) console.error(error.cause)
  else if (!error.told) console.error(error)
  console.error(`slipway: the function cannot start: ${String(error.message).replace(/\s+/g, ' ').slice(0, 500)}`)
  process.exit(1)
})
