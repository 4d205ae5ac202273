"""The machine compares what no test module does: what differs is to be shown all the same."""

import pytest

pytest.register_assert_rewrite("tests.invariants.machine")
