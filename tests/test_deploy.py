"""What is deployed is what the Procfile lists."""

import re
from pathlib import Path

import yaml

from onsale.server.metrics import Metrics

ROOT = Path(__file__).resolve().parents[1]


def procfile() -> dict[str, str]:
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): command.split()[-1] for name, command in pairs}


def test_compose_runs_every_process_of_the_procfile() -> None:
    """Same names, same commands; what else there is are stores and what stands around them."""
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]

    assert procfile() == {name: services[name]["command"][-1] for name in procfile()}


def test_each_redis_keeps_what_its_side_needs() -> None:
    """The shop fsyncs each write, the line each second; neither evicts."""
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    fsync = {side: services[f"redis-{side}"]["command"][4] for side in ("line", "shop")}

    assert {"line": "everysec", "shop": "always"} == fsync
    assert all("noeviction" in services[f"redis-{side}"]["command"] for side in ("line", "shop"))


def test_alerts_ask_for_series_that_there_are() -> None:
    """Prometheus takes an alert on a misspelt series for one that never has a reason; each says what is the matter."""
    series = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in Metrics("0").registry.collect()
    }
    groups = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    asked = {name for rule in rules for name in re.findall(r"onsale_\w+", rule["expr"])}

    assert rules and asked and set() == asked - series
    assert all(rule["annotations"]["summary"] for rule in rules)


def test_prometheus_reads_the_alerts() -> None:
    """Named in its settings, and there where it looks."""
    settings = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]

    assert ["alerts.yml"] == settings["rule_files"]
    assert "./alerts.yml:/etc/prometheus/alerts.yml:ro" in services["prometheus"]["volumes"]
