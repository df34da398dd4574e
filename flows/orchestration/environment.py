"""The environment of an audit's processes: what Prefect and HTTP clients read there when they are imported or started."""

import atexit
import os
import shutil
import tempfile
import urllib.request
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

import typer

from storage.errors import InputError

NO_TELEMETRY = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_CLI_WIKI": "false"}
"""No log lines between ours: failures reach people as our own messages."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def prepare_environment() -> None:
    """Sets what Prefect reads when it is imported; call before. What the user has set stays, but for telemetry.

    Raises InputError where there is no folder for Prefect's database.
    """
    os.environ.update(NO_TELEMETRY)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("PREFECT_API_URL", "").strip():
        # Set to nothing, as a compose file may leave it, Prefect would start a server of its own beside ours.
        os.environ.pop("PREFECT_API_URL", None)
        # Nobody reads the logs of a server that ends with the run.
        os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
        drop_unusable_proxies(os.environ)
    bypass_proxies(os.environ)
    os.environ["PREFECT_HOME"] = str(prefect_home(os.environ))


def prefect_home(environment: MutableMapping[str, str]) -> Path:
    """The folder of Prefect's database: PREFECT_HOME, or one of ours, for another Prefect version's must not be migrated by us.

    Where the user's folder for configuration cannot be written, one in the system's temporary folder, until this process ends.
    Raises InputError where there is none at all.
    """
    named = environment.get("PREFECT_HOME")
    if named:
        home = Path(named).expanduser()
        fault = why_not_writable(home)
        if fault is not None:
            raise InputError(f"PREFECT_HOME '{named}' cannot be written ({fault}): name a folder that can, or unset it")
        return home
    home = Path(typer.get_app_dir("clear-audit")) / "prefect"
    # Without any home it would be a folder called ~ in the working directory.
    if home.is_absolute() and why_not_writable(home) is None:
        return home
    try:
        home = Path(tempfile.mkdtemp(prefix="clear-audit-prefect-"))
    except OSError as error:
        raise InputError(f"there is no folder for Prefect's database ({error.strerror}): name one by PREFECT_HOME") from error
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def why_not_writable(folder: Path) -> str | None:
    """Why a folder cannot be made, or no file in it be written; None where both can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        with suppress(FileNotFoundError), (folder / "prefect.db").open("r+b"):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def bypass_proxies(environment: MutableMapping[str, str]) -> None:
    """Adds loopback to NO_PROXY where a proxy is set: our own server answers there, and no proxy can reach it."""
    proxies = urllib.request.getproxies()
    if not proxies.keys() - {"no"}:
        return
    for scheme, address in proxies.items():
        # Of a system's own settings Python reads nothing once there is a variable.
        if f"{scheme}_proxy".upper() not in environment:
            environment.setdefault(f"{scheme}_proxy", address)
    named = f"{environment.get('no_proxy', '')},{environment.get('NO_PROXY', '')}"
    hosts = list(dict.fromkeys(host.strip() for host in named.split(",") if host.strip()))
    if hosts != ["*"]:
        hosts = list(dict.fromkeys([*hosts, *LOOPBACK]))
    # Which of the two wins differs from library to library.
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)


def drop_unusable_proxies(environment: MutableMapping[str, str]) -> None:
    """Takes out the proxies that Prefect's HTTP client cannot even be made with, though it would use none for loopback."""
    names = [name for name in environment if name.lower() in ("http_proxy", "https_proxy", "all_proxy") and environment[name]]
    if not names:
        return
    import httpx

    for name in names:
        address = environment[name]
        try:
            httpx.HTTPTransport(proxy=address if "://" in address else f"http://{address}").close()
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            del environment[name]
            # Not the library's words: they may have the proxy's password.
            why = "SOCKS needs the package socksio" if isinstance(error, ImportError) else "it is no address of a proxy"
            typer.echo(f"clear-audit: {name} is not used: {why}", err=True)
