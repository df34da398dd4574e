"""What an audit's processes find in their environment: no telemetry, no proxy for loopback, a folder for Prefect's database."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from flows.orchestration.environment import bypass_proxies, drop_unusable_proxies, prefect_home, prepare_environment
from storage.errors import InputError

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set here is gone afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in PROXIES:
        os.environ.pop(name, None)


def test_telemetry_is_off_whatever_was_set() -> None:
    os.environ |= {"DO_NOT_TRACK": "0", "PREFECT_SERVER_ANALYTICS_ENABLED": "true"}
    prepare_environment()
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_an_api_url_that_is_empty_is_not_set() -> None:
    os.environ["PREFECT_API_URL"] = " "
    prepare_environment()
    assert "PREFECT_API_URL" not in os.environ


SCRIPT = """
import os, urllib.request, httpx, requests
from flows.orchestration.environment import bypass_proxies
bypass_proxies(os.environ)
for host in ("127.0.0.1:4200", "localhost:4200", "kept.example", "other.example"):
    found = requests.utils.select_proxy(f"http://{host}", requests.utils.get_environ_proxies(f"http://{host}"))
    with httpx.Client() as client:
        transport = client._transport_for_url(httpx.URL(f"http://{host}"))
    print(host, bool(urllib.request.proxy_bypass(host)), found is None, transport is client._transport)
"""


@pytest.mark.parametrize(
    "proxies",
    [
        {"HTTP_PROXY": "http://192.0.2.1:9", "NO_PROXY": "kept.example"},
        {"http_proxy": "192.0.2.1:9", "no_proxy": "kept.example"},
        {"ALL_PROXY": "http://192.0.2.1:9", "http_proxy": "http://192.0.2.1:9", "no_proxy": "", "NO_PROXY": "kept.example, "},
    ],
)
def test_loopback_is_no_proxys_business_and_all_else_as_it_was(proxies: dict[str, str]) -> None:
    """By three libraries, of which some read NO_PROXY and some no_proxy first."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | proxies, capture_output=True, text=True, check=True)
    direct = {host: facts for host, *facts in map(str.split, done.stdout.splitlines())}
    assert direct["127.0.0.1:4200"] == direct["localhost:4200"] == ["True"] * 3
    assert direct["kept.example"][:2] == ["True"] * 2
    assert direct["other.example"] == ["False"] * 3


def test_without_a_proxy_nothing_is_set() -> None:
    before = dict(os.environ)
    bypass_proxies(os.environ)
    drop_unusable_proxies(os.environ)
    assert os.environ == before


def test_who_bypasses_all_proxies_still_does() -> None:
    os.environ |= {"HTTP_PROXY": "http://192.0.2.1:9", "NO_PROXY": "*"}
    bypass_proxies(os.environ)
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "*"


@pytest.mark.parametrize("address", ["socks://127.0.0.1:9", "socks4://127.0.0.1:9", "http://u:p@ss:9x"])
def test_a_proxy_that_no_client_can_be_made_with_is_not_used(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ |= {"ALL_PROXY": address, "https_proxy": "http://127.0.0.1:9"}
    drop_unusable_proxies(os.environ)
    httpx.Client().close()
    assert "ALL_PROXY" not in os.environ
    assert os.environ["https_proxy"] == "http://127.0.0.1:9"
    assert capsys.readouterr().err == "clear-audit: ALL_PROXY is not used: it is no address of a proxy\n"


def test_a_home_that_is_named_is_used_or_refused(tmp_path: Path) -> None:
    assert prefect_home({"PREFECT_HOME": str(tmp_path / "new")}) == tmp_path / "new"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"PREFECT_HOME '.*file/x' cannot be written \(Not a directory\): name a"):
        prefect_home({"PREFECT_HOME": str(tmp_path / "file" / "x")})


@pytest.mark.parametrize("home", ["/proc/nobody", "", None])
def test_without_a_home_there_is_one_until_the_process_ends(tmp_path: Path, home: str | None) -> None:
    """None: no HOME, in a process whose user has no entry in the list of users, is like a relative folder of configuration."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "PREFECT_HOME", "XDG_CONFIG_HOME")}
    environment |= {"XDG_CONFIG_HOME": home or "~/.config", "TMPDIR": str(tmp_path)}
    script = "import os; from flows.orchestration.environment import prefect_home as found; home = found(os.environ)"
    script += "; print(home, home.is_dir())"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    found, was_there = done.stdout.split()
    assert (Path(found).parent, was_there) == (tmp_path, "True")
    assert list(tmp_path.iterdir()) == []


def test_without_any_folder_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/nobody")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"Prefect's database \(No such file or directory\): name one by PREFECT_HOME"):
        prefect_home({})
