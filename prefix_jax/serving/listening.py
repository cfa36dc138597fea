"""An application on a port, by uvicorn."""

import socket
import sys
from typing import Any

import uvicorn

from prefix_jax.errors import UserError

# How long requests may take to end once the server is told to stop, in seconds.
_GRACE = 30


class _Told(uvicorn.Server):
    """A server that says where it listens."""

    def __init__(self, config: uvicorn.Config, about: str):
        super().__init__(config)
        self._about = about

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and not self.should_exit:
            host, port = sockets[0].getsockname()[:2]
            name = f"[{host}]" if ":" in host else host
            print(f"serving {self._about} on http://{name}:{port} (Ctrl-C ends it)", file=sys.stderr, flush=True)


def run(app: Any, host: str, port: int, about: str) -> None:
    """Serves an application until the process is told to end; requests that run may end first.

    Raises:
      UserError: the address is in use, or is not this machine's.
    """
    # The process has its own logging; uvicorn's would close the handlers of others.
    config = uvicorn.Config(app, log_config=None, log_level="warning", timeout_graceful_shutdown=_GRACE)
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            _Told(config, about).run([listener])
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host}:{port}: {said.lower()}; name another --host or --port") from None
