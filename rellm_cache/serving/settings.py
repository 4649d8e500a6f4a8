"""Settings of the server: address, access token, and bounds on what it accepts."""

import ipaddress
from dataclasses import dataclass

from rellm_cache.corpus.clip_limits import MAX_SECONDS, MIN_SECONDS, ClipLimits

MB = 1_000_000
MAX_CHANNELS = 2  # more are arrays of microphones, not one voice
SECONDS_FOR_BODY = 30.0  # a request must arrive within this time
ANSWER_TOKENS = 4096  # most that a request of the API may ask for


@dataclass(frozen=True)
class ServeSettings:
    """How a server listens, and what it accepts.

    Attributes:
        port: 0 for any free port.
        token: what requests must carry; empty for none.
        max_upload_bytes: largest request, and largest file of the page.
        max_seconds: longest clip.
        waiting: most requests that wait while another is answered.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    token: str = ""
    max_upload_bytes: int = 32 * MB
    max_seconds: float = MAX_SECONDS
    waiting: int = 8

    @property
    def limits(self) -> ClipLimits:
        """Limits of a clip: as those of `rellm generate`, up to `max_seconds`."""
        return ClipLimits(MIN_SECONDS, self.max_seconds)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
