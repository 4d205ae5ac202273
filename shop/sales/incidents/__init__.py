"""That a sale must be recovered, who was asked, what was reported; the recovery itself is `shop.recovery`."""
