"""What goes wrong in a command is one clear line with a status, and never a traceback for what can be foreseen."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError
from pydantic_settings import SettingsError

from shop.cli.output import NOT_PRINTED, NotPrinted, fail
from shop.cli.unreachable import ServerUnreachable
from shop.database import CommitUnknown
from shop.embedded import ServerUnavailable
from shop.errors import ShopError
from shop.local import NotStarted
from shop.redis import ScriptMissing
from shop.settings import Settings

USAGE = 2


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """End the process with one line, or one JSON object, for each error that can be foreseen."""
    try:
        yield
    except ValidationError as error:
        fail("; ".join(_broken_rules(error)), code="invalid", status=USAGE)
    except SettingsError as error:
        field = str(error).partition('field "')[2].partition('"')[0]
        fail(f"SHOP_{field.upper()}: it is not the JSON that it must be", code="invalid", status=USAGE)
    except ShopError as error:
        fail(f"{error.title}: {error.detail}" if error.detail else error.title, code=error.code)
    except (ServerUnavailable, NotStarted) as error:
        fail(error.problem, code="not_started", details=error.details)
    except ScriptMissing as error:
        fail(str(error), code="not_started")
    except NotPrinted as error:
        fail(str(error), code="not_printed", status=NOT_PRINTED)
    except CommitUnknown as error:
        fail(f"the outcome is unknown: {error}; look before you repeat it", code="unknown_outcome")
    except ServerUnreachable as error:
        fail(str(error), code="unavailable")
    except UnicodeDecodeError as error:
        fail(f"a file is not text in UTF-8 (.env is read as well): {error.reason}", code="invalid", status=USAGE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}", code="system")


def _broken_rules(error: ValidationError) -> Iterator[str]:
    of_settings = error.title == Settings.__name__
    for each in error.errors(include_url=False, include_input=False):
        name = ".".join(map(str, each["loc"]))
        words = each["msg"].removeprefix("Value error, ")
        shown = (
            f"SHOP_{name.upper()} ({name})" if of_settings else name
        )  # a variable, or a line of .env in small letters
        yield f"{shown}: {words}" if name else words
