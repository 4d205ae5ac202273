"""How `shop api` explains itself, what it refuses to start with, and where it says so."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shop.local import environment_of
from shop.processes import START_FAILED
from shop.settings import Settings
from tests.nursery import Said, run
from tests.processes import copy_of


def started(settings: Settings, directory: Path, *options: str, **variables: str) -> Said:
    """What `shop api` says when it cannot start."""
    own = copy_of(settings, metrics_port=0)
    return run(directory, "api", *options, **environment_of(own), **variables)


@pytest.fixture(params=["somebody else's", "another shop's"])
def taken_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port where somebody listens; a shop with several processes is willing to share its own with its own."""
    with closing(socket.socket()) as listener:
        if request.param == "another shop's":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_that_is_taken_is_one_line_and_status_3(
    processes: str, taken_port: int, live_settings: Settings, tmp_path: Path
) -> None:
    settings = copy_of(live_settings, api_port=taken_port)

    said = started(settings, tmp_path, "--processes", processes)

    assert (said.status, said.output) == (START_FAILED, "")
    assert said.errors == f"error: the API cannot listen on 127.0.0.1:{taken_port}: Address already in use\n"


def test_an_address_that_is_not_ours_is_one_line_and_status_3(live_settings: Settings, tmp_path: Path) -> None:
    said = started(copy_of(live_settings, api_host="203.0.113.1", api_port=8000), tmp_path)

    assert said.status == START_FAILED
    assert said.errors == "error: the API cannot listen on 203.0.113.1:8000: Cannot assign requested address\n"


@pytest.mark.parametrize("wrong", ["0", "65", "two", "-1"])
def test_a_wrong_number_of_processes_is_wrong_usage(wrong: str, live_settings: Settings, tmp_path: Path) -> None:
    said = started(live_settings, tmp_path, f"--processes={wrong}")

    assert (said.status, said.output) == (2, "")
    assert "--processes" in said.errors
    assert "Usage: shop api" in said.errors


@pytest.mark.parametrize(
    ("variable", "wrong"), [("SHOP_API_PROCESSES", "0"), ("SHOP_API_PORT", "70000"), ("SHOP_METRICS_PORT", "x")]
)
def test_a_wrong_setting_is_one_line_that_names_it(
    variable: str, wrong: str, live_settings: Settings, tmp_path: Path
) -> None:
    said = run(tmp_path, "api", **{**environment_of(live_settings), variable: wrong})

    assert (said.status, said.output, said.errors.count("\n")) == (2, "", 1)
    assert variable.removeprefix("SHOP_").lower() in said.errors


def test_the_help_tells_how_it_is_stopped_and_renewed_and_what_its_status_means(tmp_path: Path) -> None:
    said = run(tmp_path, "api", "--help")

    for word in ("SIGTERM", "SIGHUP", "Ctrl-C", "SHOP_API_PROCESSES", "Exit status", "shop api --processes 4"):
        assert word in said.output


def test_pools_that_postgres_cannot_fill_are_said_at_the_start(
    taken_port: int, live_settings: Settings, tmp_path: Path
) -> None:
    """Each process alone fits; three in each of two containers, and a worker, do not."""
    settings = copy_of(live_settings, api_port=taken_port, log_level="warning", api_instances=2, database_pool_max=100)

    said = started(settings, tmp_path, "--processes", "3")

    assert "postgres_connections_short" in said.errors + said.output
    assert "SHOP_DATABASE_POOL_MAX" in said.errors + said.output


@pytest.mark.parametrize(
    ("command", "variable"), [("api", "SHOP_DATABASE_POOL_MAX"), ("worker", "SHOP_WORKER_POOL_MAX")]
)
def test_a_process_whose_pools_can_never_be_filled_does_not_start(
    command: str, variable: str, live_settings: Settings, tmp_path: Path
) -> None:
    """It would run until it is needed, and then refuse."""
    settings = copy_of(live_settings, metrics_port=0, worker_metrics_port=0)

    said = run(tmp_path, command, **{**environment_of(settings), variable: "900"})

    assert (said.status, said.output, said.errors.count("\n")) == (1, "", 1)
    assert variable in said.errors
    assert "max_connections" in said.errors
