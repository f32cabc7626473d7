"""What `vigc serve` can be told: the service's settings, and where it listens."""

from __future__ import annotations

from vigc.jobs.settings.shared import PrintsJson
from vigc.platform.settings import flag
from vigc.serve.settings import WHO, ServeSettings


class ServeConfig(ServeSettings, PrintsJson):
    """The settings of `vigc serve`."""

    host: str = flag("The address to listen on; 0.0.0.0 is all.", "127.0.0.1", panel=WHO)
    port: int = flag("The TCP port to listen on.", 8000, ge=1, le=65535, panel=WHO)

    @property
    def of_service(self) -> ServeSettings:
        """The part that travels to the service's processes."""
        return ServeSettings(**{name: getattr(self, name) for name in ServeSettings.model_fields})
