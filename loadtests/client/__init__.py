"""How a program buys: the HTTP client of every crowd, the request of a purchase, and what an answer means."""
