"""The benchmark: the shop beside other ways to build it, in one run on one machine. `python -m loadtests.bench`.

plan        how large a run is, and the bars
testbed     servers, processes and the generator
cores       which of them runs where
settings    those of a shop in production, on servers of a run
sales       sales for the rounds
requests    what is sent: purchases with tokens of their own
messages    what the generator is told and what it tells
generator   the process that sends and measures; loops are its closed and its open loop
accounting  CPU and memory by the operating system's account
rounds      one round, and what several come to
purchases, answers, pages, streams, overload, beside, drain, growth, expiry   the parts of a run
payments    payments at a constant rate, for the parts that ask what they notice
machine     where it ran
results     the ratios against the bars
report      tables for people
chart       the chart of the README
"""
