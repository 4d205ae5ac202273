"""What everybody may see, answered by each process from its memory: sales, products, and the lists of both."""
