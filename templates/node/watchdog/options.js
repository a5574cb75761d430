'use strict'

// What the environment asks of the watchdog; the names are of-watchdog's, the units of the result
// milliseconds and bytes. 0 turns a bound off, except for write_timeout.

const DURATION = /^(?:\d+|(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+)$/
const LONGEST = 32 // characters: a caller's X-Timeout is a duration, too
const UNITS = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1000, m: 60000, h: 3600000 }
const SIZE = /^(\d+)\s*(b|kb|mb|gb)?$/i
const BYTES = { b: 1, kb: 2 ** 10, mb: 2 ** 20, gb: 2 ** 30 }

/** Milliseconds of a Go duration (1m30s, 500ms) or of plain seconds; undefined for others. */
function duration(text) {
  if (text.length > LONGEST || !DURATION.test(text)) return undefined
  if (/^\d+$/.test(text)) return Number(text) * 1000
  let sum = 0
  for (const [, number, unit] of text.matchAll(/([\d.]+)(ns|us|µs|ms|s|m|h)/g)) {
    sum += Number(number) * UNITS[unit]
  }
  return sum
}

/** Reads the options; what is absent or empty keeps its default. Throws BadOption. */
function readOptions(environment) {
  const text = (name) => (environment[name] || '').trim()
  const time = (name, fallback) => {
    if (!text(name)) return fallback
    const found = duration(text(name))
    if (found === undefined) refuse(name, text(name), 'is not a time: write 30s, 1m30s, 500ms or seconds')
    return found
  }
  const count = (name, fallback) => {
    if (!text(name)) return fallback
    if (!/^\d+$/.test(text(name)) || Number(text(name)) > 65535) {
      refuse(name, text(name), 'is not a whole number between 0 and 65535')
    }
    return Number(text(name))
  }
  const size = (name) => {
    const found = SIZE.exec(text(name) || '100kb') // OpenFaaS' default, too
    if (!found) refuse(name, text(name), 'is not a size: write 512kb, 10mb or bytes')
    return Number(found[1]) * BYTES[(found[2] || 'b').toLowerCase()]
  }
  const options = {
    readTimeout: time('read_timeout', 30000),
    writeTimeout: time('write_timeout', 30000),
    execTimeout: time('exec_timeout', 30000),
    healthcheckInterval: time('healthcheck_interval', 0),
    maxInflight: count('max_inflight', 0),
    port: count('port', 8080),
    readyPath: text('ready_path'),
    suppressLock: ['1', 'true', 'yes', 'on'].includes(text('suppress_lock').toLowerCase()),
    rawBody: text('RAW_BODY') === 'true',
    maxRawSize: size('MAX_RAW_SIZE'),
    maxJsonSize: size('MAX_JSON_SIZE'),
  }
  if (options.writeTimeout === 0) refuse('write_timeout', '0', 'leaves no time for an answer: write 30s')
  if (options.readyPath && !options.readyPath.startsWith('/')) {
    refuse('ready_path', options.readyPath, 'is no path: it has to begin with /')
  }
  return options
}

function refuse(name, value, why) {
  throw Object.assign(new Error(`${name}=${JSON.stringify(value)} ${why}`), { told: true })
}

module.exports = { duration, readOptions }
