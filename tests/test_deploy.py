"""What is deployed is what the Procfile lists."""

from pathlib import Path

import yaml

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
