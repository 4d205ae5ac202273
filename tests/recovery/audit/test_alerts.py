"""The alerts for Prometheus: about metrics that the shop has, and tested where promtool is."""

import re
import shutil
import subprocess

import pytest
from prometheus_client import REGISTRY

from shop.metrics_page import FILES_UNREADABLE
from tests.source_tree import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
TESTED = ROOT / "deploy" / "prometheus" / "rules_test.yml"
PROMTOOL = shutil.which("promtool")
PROMTOOL_SECONDS = 30


def test_every_alert_is_about_metrics_that_the_shop_has_and_is_tested() -> None:
    suffixes = {"counter": "_total", "histogram": "_bucket"}
    known = {each.name + suffixes.get(each.type, "") for each in REGISTRY.collect()} | {FILES_UNREADABLE}
    rules = RULES.read_text()
    named = {name for line in re.findall(r"expr: (.+)", rules) for name in re.findall(r"shop_[a-z_]+", line)}
    alerts = set(re.findall(r"alert: (\w+)", rules))

    assert named
    assert named <= known
    assert alerts == set(re.findall(r"alertname: (\w+)", TESTED.read_text()))


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_the_alerts_ring_when_they_should() -> None:
    said = subprocess.run([str(PROMTOOL), "test", "rules", str(TESTED)], capture_output=True, timeout=PROMTOOL_SECONDS)

    assert said.returncode == 0, said.stdout.decode() + said.stderr.decode()
