"""What admins and refused buyers may ask of a sale: the trail of an order, and why a purchase was refused."""
