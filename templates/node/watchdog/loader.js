'use strict'

// Imports the handler, or says in one line why that cannot be.

const fs = require('node:fs')
const path = require('node:path')
const { pathToFileURL } = require('node:url')

const NAMES = ['handler.js', 'handler.mjs', 'handler.cjs']

/** Returns the handler that a folder's handler file exports, as CommonJS or as an ES module. */
async function load(folder) {
  const home = path.resolve(__dirname, '..', folder)
  const name = NAMES.find((each) => fs.existsSync(path.join(home, each)))
  if (!name) throw cannot(`there is no ${folder}/handler.js`)
  const file = path.join(home, name)
  const module = await imported(file, `${folder}/${name}`)
  for (const found of [module, module?.default, module?.default?.default, module?.handler, module?.handle]) {
    if (typeof found === 'function') return found
  }
  throw cannot(`${folder}/${name} exports no function: write module.exports = async (event, context) => ...`)
}

async function imported(file, shown) {
  try {
    try {
      return require(file)
    } catch (error) {
      if (error?.code !== 'ERR_REQUIRE_ASYNC_MODULE') throw error
      return await import(pathToFileURL(file)) // an ES module with await at its top level
    }
  } catch (error) {
    const wanted = /^Cannot find (?:module|package) '([^']+)'/.exec(error?.message)
    if (['MODULE_NOT_FOUND', 'ERR_MODULE_NOT_FOUND'].includes(error?.code) && wanted) {
      const remedy = /^[./]/.test(wanted[1])
        ? 'add the file'
        : 'add it to the dependencies in function/package.json'
      throw cannot(`${shown} needs ${wanted[1]}, which is not there: ${remedy}`, error)
    }
    if (error instanceof SyntaxError) {
      const place = /^(\S+):(\d+)\n/.exec(error.stack || '')
      const where = place ? `${path.relative(process.cwd(), place[1])}, line ${place[2]}` : shown
      throw cannot(`syntax error in ${where}: ${error.message}`, error)
    }
    throw cannot(`importing ${shown} failed with ${error?.name ?? typeof error}: ${error?.message ?? error}`, error)
  }
}

function cannot(message, cause) {
  return Object.assign(new Error(message), { told: true, cause })
}

module.exports = { load }
