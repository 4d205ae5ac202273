"""Breaks of what the bench measures, and of the contender that says what the promises cost."""

from tests.mutants.mutant import breaks

LEANEST, CONNECTIONS = "loadtests/baselines/asgi_best.py", "loadtests/bench/connections.py"
OF_LEANEST = "tests/loadtests/test_baselines.py"
OF_CONNECTIONS = "tests/loadtests/test_connections.py"

MUTANTS = (
    breaks(
        "leanest_has_no_limit",
        "The leanest contender sells a buyer two units in one group, and is compared as if it kept the limit.",
        LEANEST,
        "if units or new[buyer] then",
        "if units then",
        f"{OF_LEANEST}::test_a_buyer_who_is_twice_in_one_group_has_one_unit",
    ),
    breaks(
        "rewritten_file_counts",
        "A rewrite of the append-only file makes an order look cheaper than it is.",
        CONNECTIONS,
        "not each.before.aof_rewriting and each.after.aof_rewrites == each.before.aof_rewrites",
        "each.before.aof_rewrites",
        f"{OF_CONNECTIONS}::test_the_growth_of_the_file_counts_only_while_nobody_rewrites_it",
    ),
)
