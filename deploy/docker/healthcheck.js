// Exits with 0 if the server in this container answers.
import { get as http } from 'node:http'
import { get as https } from 'node:https'

const { PGWS_PORT, PGWS_CERTIFICATE_FILE } = process.env
const host = `localhost:${PGWS_PORT || 3000}`
// The certificate is for another name than localhost.
const request = PGWS_CERTIFICATE_FILE
  ? https(`https://${host}/health/live`, { rejectUnauthorized: false })
  : http(`http://${host}/health/live`)
request
  .on('response', ({ statusCode }) => process.exit(statusCode === 200 ? 0 : 1))
  .on('error', ({ message }) => {
    process.stderr.write(`${message}\n`)
    process.exit(1)
  })
