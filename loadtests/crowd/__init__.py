"""Simulated people, and the record of every answer they got. They only ask and write down; `loadtests.judge` judges.

shoppers    thousands who all want one unit of one sale
rush        the command that sends them, from a process of its own
customers   the command that sends buyers to what they do with their orders: pay, cancel, forget
record      every attempt with its answer, the file that keeps them, and their figures
output      what the commands print
locustfile  shoppers for Locust
"""
