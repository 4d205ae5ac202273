"""What docker-compose.yml and the image are given: every setting, bounds, and no secret that they do not need."""

import re
from typing import Any

import pytest
import yaml

from shop.pool_sizes import connections_wanted
from shop.settings import NOT_FOR_PRODUCTION, Settings
from tests.source_tree import ROOT

SHOPS = ["migrate", "api-1", "api-2", "worker"]
SUPERUSER_RESERVED_CONNECTIONS = 3  # what Postgres keeps of max_connections by default
OF_API_ALONE = {"SHOP_CORS_ORIGINS", "SHOP_TRUSTED_PROXIES"}
# The containers' own addresses: nginx and the metrics know them.
FIXED = {"SHOP_API_HOST", "SHOP_API_PORT", "SHOP_METRICS_HOST", "SHOP_METRICS_PORT", "SHOP_WORKER_METRICS_PORT"}


def services() -> dict[str, Any]:
    composed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    found: dict[str, Any] = composed["services"]
    return found


@pytest.mark.parametrize("service", SHOPS)
def test_every_setting_that_an_operator_may_choose_reaches_the_containers(service: str) -> None:
    """A line of .env that reaches nobody would be believed and not obeyed."""
    wanted = {
        f"SHOP_{name.upper()}"
        for name, field in Settings.model_fields.items()
        if not (field.description or "").startswith(NOT_FOR_PRODUCTION)
    }

    given = services()[service]["environment"].keys()

    # A new setting needs its line in `x-settings` of docker-compose.yml.
    assert wanted - FIXED - given == (set() if service.startswith("api") else OF_API_ALONE)
    assert given - wanted == set()


@pytest.mark.parametrize("api_processes", [1, 2, 4])
def test_the_pools_of_all_containers_fit_into_the_connections_of_postgres(api_processes: int) -> None:
    """Also with SHOP_API_PROCESSES=4 in .env, and with nothing else changed."""
    found = services()
    apis = [name for name in found if name.startswith("api-")]
    [most] = re.findall(
        r"max_connections=\$\{POSTGRES_MAX_CONNECTIONS:-(\d+)\}", " ".join(found["postgres"]["command"])
    )
    settings = Settings(_env_file=None, environment="development", api_instances=len(apis), worker_instances=1)

    assert {found[name]["environment"]["SHOP_API_INSTANCES"] for name in apis} == {len(apis)}
    assert connections_wanted(settings, api_processes=api_processes) <= int(most) - SUPERUSER_RESERVED_CONNECTIONS


@pytest.mark.parametrize("service", [*SHOPS, "postgres", "valkey", "side", "nginx"])
def test_every_container_has_a_bound_of_memory_and_processes(service: str) -> None:
    found = services()[service]

    assert found["mem_limit"]
    assert found["pids_limit"] > 0


def test_the_build_context_is_what_the_image_copies_and_nothing_else() -> None:
    """A file that is not named stays outside: .env, a key, or the data of a shop on this machine."""
    rules = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.strip() and not line.startswith("#")
    ]
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
        for source in line.split()
    }
    allowed = {rule[1:].rstrip("/") for rule in rules if rule.startswith("!")}
    last_allowed = max(place for place, rule in enumerate(rules) if rule.startswith("!"))

    assert rules[0] == "*"
    assert allowed == copied
    assert not any(name.startswith(".") or "*" in name for name in allowed)
    # What is named may hold such a file by accident; the last rule that fits wins.
    assert {"**/.env*", "**/.shop", "**/*.pem", "**/*.key"} <= set(rules[last_allowed + 1 :])


@pytest.mark.parametrize("service", SHOPS)
def test_only_the_migration_has_the_owner_of_the_schema(service: str) -> None:
    """API and worker are the role that the migration grants the rows to, and that the new volume gets."""
    found = services()[service]
    user = re.match(r"postgresql://(\w+):", found["environment"]["SHOP_DATABASE_URL"])
    composed = (ROOT / "docker-compose.yml").read_text()

    assert user is not None
    assert user[1] == ("shop" if service == "migrate" else "shop_app")
    assert services()["migrate"]["command"] == ["shop", "migrate", "--grant-to", "shop_app"]
    assert "CREATE ROLE shop_app LOGIN NOSUPERUSER" in composed
