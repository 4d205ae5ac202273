"""`python -m loadtests.torture`: a shop of its own under load, broken again and again, and held to every promise.

testbed     its servers and processes, which can be killed, stopped and started
plan        which faults come in which order: a function of the seed alone
context     what a fault is injected into
faults      what is done to processes, to the network, and to the ledger's data (losses)
purchases   one wish of one buyer, all its attempts, and what is known of it
crowd       the buyers: they ask until they know, cancel, come back, and show their receipts
driver      the sales, one after another and beside each other, and the admin who changes them
healing     how long it takes until everything is well again (I12)
check       what was promised against what is recorded, on the same data
history     every answer against the rows of the ledger
finding     what the checks have found so far
run         the course: break, heal, check, repeat
report      the screen, the table, the line of JSON, the README
"""
