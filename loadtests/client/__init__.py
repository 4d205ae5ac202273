"""How a program buys: the HTTP client of every crowd, and what an answer of the shop means to a shopper."""
