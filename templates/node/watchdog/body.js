'use strict'

// The request's body: read within a bound, and parsed as OpenFaaS' template does with body-parser.

const zlib = require('node:zlib')

const { Refusal } = require('./refusal')

const TEXT_LIMIT = 100 * 1024 // body-parser's own, for text and forms

/** Throws Refusal 413 if a request announces a body over its bound; returns the bound. */
function checkSize(request, options) {
  const limit = limitOf(request, options)
  if (Number(request.headers['content-length']) > limit) throw tooLarge(limit)
  return limit
}

/**
 * Reads a body whole.
 *
 * Returns undefined if the client went away. Throws Refusal 413 as soon as it is known to be too
 * large, 415 for an unknown compression, 400 for one that is broken.
 */
async function readBody(request, options) {
  const limit = checkSize(request, options)
  const pieces = []
  let size = 0
  const broken = await new Promise((resolve) => {
    request.on('data', (piece) => {
      size += piece.length
      if (size > limit) return resolve(tooLarge(limit))
      pieces.push(piece)
    })
    request.on('end', () => resolve(undefined))
    request.on('error', () => resolve('gone'))
    request.on('close', () => resolve('gone'))
  })
  if (broken === 'gone') return undefined
  if (broken) throw broken
  return inflate(Buffer.concat(pieces), request.headers['content-encoding'], limit)
}

/** What the handler sees as event.body. */
function parseBody(body, request, options) {
  if (options.rawBody) return body
  const headers = request.headers
  const [type, parameters] = contentType(headers)
  const sent = headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined
  if (!sent) return {} // as body-parser leaves it
  if (isJson(type)) return parseJson(decode(body, parameters))
  if (type === 'application/x-www-form-urlencoded') return parseQuery(decode(body, parameters))
  if (type.startsWith('text/')) return decode(body, parameters)
  return body
}

/** Names with brackets as nested objects and arrays, as Express does: a[b]=1&c[]=2&c[]=3. */
function parseQuery(text) {
  const result = Object.create(null)
  let left = 1000 // parameters that are read
  for (const [name, value] of new URLSearchParams(text)) {
    if (left-- === 0) break
    const keys = /^([^[]*)((?:\[[^\]]*\])*)$/.exec(name)
    const path = keys?.[1] ? [keys[1], ...Array.from(keys[2].matchAll(/\[([^\]]*)\]/g), (m) => m[1])] : [name]
    insert(result, path.slice(0, 6), value)
  }
  return result
}

function insert(target, path, value) {
  const [key, ...rest] = path
  const list = Array.isArray(target)
  const at = key === '' && list ? target.length : key
  if (list && at !== target.length && !/^\d{1,2}$/.test(at)) return // a name in what began as a list
  const there = target[at]
  if (rest.length === 0) {
    if (there === undefined) target[at] = value
    else if (Array.isArray(there)) there.push(value)
    else if (typeof there === 'string') target[at] = [there, value]
    return
  }
  if (there === undefined) target[at] = rest[0] === '' || rest[0] === '0' ? [] : Object.create(null)
  else if (typeof there !== 'object') return
  insert(target[at], rest, value)
}

function contentType(headers) {
  const [type, ...parameters] = (headers['content-type'] || 'text/plain').split(';')
  return [type.trim().toLowerCase(), parameters.join(';')]
}

function isJson(type) {
  return /^application\/(?:[\w.-]+\+)?json$/.test(type)
}

function limitOf(request, options) {
  if (options.rawBody) return options.maxRawSize
  const [type] = contentType(request.headers)
  if (isJson(type)) return options.maxJsonSize
  return type.startsWith('text/') || type.startsWith('application/x-www-form') ? TEXT_LIMIT : options.maxRawSize
}

function tooLarge(limit) {
  return new Refusal(413, `The request's body is larger than ${limit} bytes.`)
}

function parseJson(text) {
  if (text === '') return {}
  try {
    const value = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value
  } catch (error) {
    throw new Refusal(400, `The body is not valid JSON: ${error.message}`)
  }
  throw new Refusal(400, 'The body is JSON, but neither an object nor an array.')
}

function decode(body, parameters) {
  const charset = /charset\s*=\s*"?([\w-]+)/i.exec(parameters)?.[1] || 'utf-8'
  try {
    return new TextDecoder(charset).decode(body)
  } catch {
    throw new Refusal(415, `The charset ${charset} is not known.`)
  }
}

function inflate(body, encoding, limit) {
  if (!encoding || encoding.toLowerCase() === 'identity') return body
  const inflater = { gzip: zlib.gunzip, deflate: zlib.inflate, br: zlib.brotliDecompress }[encoding.toLowerCase()]
  if (!inflater) throw new Refusal(415, `The content encoding ${encoding} is not known.`)
  return new Promise((resolve, reject) => {
    inflater(body, { maxOutputLength: limit }, (error, whole) => {
      if (!error) resolve(whole)
      else if (error.code === 'ERR_BUFFER_TOO_LARGE') reject(tooLarge(limit))
      else reject(new Refusal(400, `The body is not valid ${encoding}.`))
    })
  })
}

module.exports = { checkSize, parseBody, parseQuery, readBody }
