"""What must be true after a run, each rule computed once: what was told, held against what is recorded.

verify      after a rush: promises against rows
retries     what was promised is asked for again (I7)
afterlife   after the orders' whole life: units and money
rows        what Postgres has recorded of a sale
operations  a history: what was asked and answered, what was recorded, and by which rules
replay      the rows of a ledger, read again in their order
history     every answer against the ledger's own order of events
report      the end screen, and the same as one line of JSON

It reads and never writes.
"""
