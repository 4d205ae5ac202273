"""What schemathesis loads (`SCHEMATHESIS_HOOKS`): half of the made-up paths name something that there is."""

import json
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st

KNOWN: dict[str, list[object]] = json.loads(os.environ["FUZZ_KNOWN"])


@schemathesis.hook
def flatmap_path_parameters(
    context: Any, path_parameters: dict[str, object] | None
) -> st.SearchStrategy[dict[str, object] | None]:
    """The same parameters, or with values that the shop has."""
    made_up = path_parameters or {}
    known = {name: st.sampled_from(KNOWN[name]) for name in made_up if name in KNOWN}
    return st.just(path_parameters) | st.fixed_dictionaries(known).map(lambda found: {**made_up, **found} or None)
