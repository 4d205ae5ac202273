"""What must be true after a run, each rule computed once: what was told, held against what is recorded.

invariants  what must be true, in one sentence each
promises    what was told against the rows (I4–I7, I9)
ledger      what the ledger's rows show by themselves (I8, I10), and whether they are all there
verify      after a rush: the figures, and whether they are good
retries     what was promised is asked for again (I7)
afterlife   after the orders' whole life: units and money (I11)
rows        what Postgres has recorded of a sale
operations  a history: what was asked and answered, what was recorded, and by which rules
replay      the rows of a ledger, read again in their order
history     every answer against the ledger's own order of events
report      the end screen, and the same as one line of JSON

It reads and sets nothing right; what `retries` asks for again is answered with what there is.
"""
