"""How a program buys, the same for every crowd.

http        connections, and a pool of them
purchases   the request of a purchase
answers     what an answer of the shop means
event_loop  the one to run it on
"""
