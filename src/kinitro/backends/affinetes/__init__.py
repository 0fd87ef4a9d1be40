"""affinetes in a process of its own: on first use it patches asyncio for the whole process."""

from kinitro.backends.affinetes.host import AffinetesHost

__all__ = ["AffinetesHost"]
