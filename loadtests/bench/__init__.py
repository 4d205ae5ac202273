"""The benchmark: the shop beside other ways to build it, in one run on one machine. `python -m loadtests.bench`.

plan        how large a run is, and the bars
stage       servers, processes and cores
sales       sales for the rounds
requests    what is sent: purchases with tokens of their own
messages    what the generator is told and what it tells
loops       the closed and the open loop of the generator
accounting  CPU and memory by the operating system's account
rounds      one round, and what several come to
purchases, answers, overload, drain, growth   the parts of a run
machine     where it ran
results     the ratios against the bars
report      tables for people
chart       the chart of the README
"""
