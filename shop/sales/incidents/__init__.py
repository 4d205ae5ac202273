"""That a sale must be recovered, who was asked, what was handed in; the recovery itself is `shop.recovery`."""
