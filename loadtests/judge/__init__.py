"""What must be true after a run, each rule computed once: what was told, held against what is recorded.

verify      after a rush: promises against rows
retries     what was promised is asked for again (I7)
afterlife   after the orders' whole life: units and money
history     every answer against the ledger's own order of events
told        the history of a sale, read from answers and rows
report      the end screen, and the same as one line of JSON

It reads and never writes.
"""
