-- Each request is the next record of a file, and the end of the file is the end of the run.
-- Arguments: the file, and the bytes of a record.

local requests, bytes, last

function init(args)
  requests, bytes = assert(io.open(args[1], "rb")), tonumber(args[2])
end

function request()
  local record = requests:read(bytes)
  if not record then
    wrk.thread:stop()
  end
  last = record or last
  return last
end

function done(summary)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format('\n{"requests":%d,"microseconds":%d,"refused":%d,"lost":%d}\n',
    summary.requests, summary.duration, errors.status, lost))
end
