"""Locust against a service whose times are known: it drives as it should, and the guard tells the gevent trap."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from loadtests import guard, records
from tests.loadtests.fake import Behaviour, Refusal, serving

ROOT = Path(__file__).parents[2]
USERS = 16
SECONDS = 2


def recorded(behaviour: Behaviour, locustfile: Path, folder: Path) -> list[records.Record]:
    """What became of the calls of some seconds."""
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary"]
    command += ["--users", str(USERS), "--spawn-rate", str(USERS), "--run-time", f"{SECONDS}s", "--stop-timeout", "10"]
    command += ["--records", str(folder / "records"), "--exit-code-on-error", "0"]
    paths = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)

    async def run() -> None:
        async with serving(behaviour) as (target, _):
            locust = await asyncio.create_subprocess_exec(
                *command, "--host", target, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE
            )
            try:
                await asyncio.wait_for(locust.communicate(), 60)
            finally:
                if locust.returncode is None:
                    locust.kill()
            assert locust.returncode == 0

    asyncio.run(run())
    return records.read(folder / "records")


def told(found: list[records.Record]) -> str | None:
    seconds = max(record.finished for record in found) - min(record.began for record in found)
    return guard.complaint(USERS, found, seconds)


async def behave(number: int) -> None:
    """Slow enough that a load generator which stands still shows; every eighth is refused."""
    await asyncio.sleep(0.05)
    if number % 8 == 0:
        raise Refusal


def test_users_ask_at_the_same_time_and_wait_when_refused(tmp_path: Path) -> None:
    found = recorded(behave, ROOT / "loadtests" / "locustfile.py", tmp_path)
    assert told(found) is None
    assert (tmp_path / "records.began").exists()
    assert {"Search", "Search, sorted", "Encode, features"} <= {record.kind for record in found}
    refused = [record for record in found if record.refused]
    assert {record.waited for record in refused} == {0.05}
    assert not any(record.failed for record in found)
    assert {record.tier for record in found if record.kind == "Search" and record.answered} == {"none"}


def test_without_gevent_support_of_its_own_the_client_sees_to_it(tmp_path: Path) -> None:
    """The trap that the guard is for: nothing fails, no latency is long, and the rate is that of one user."""
    whole = (ROOT / "loadtests" / "locustfile.py").read_text()
    line = "grpc.experimental.gevent.init_gevent()\n"
    assert line in whole
    without = tmp_path / "locustfile.py"
    without.write_text(whole.replace(line, ""))
    found = recorded(behave, without, tmp_path)
    assert found
    assert told(found) is None
