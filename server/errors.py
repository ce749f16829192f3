"""What the commands refuse. Each class is one decision of the person at the terminal."""

from __future__ import annotations


class Refused(Exception):
    """This cannot be done."""


class AlreadyRunning(Refused):
    """Another `onsale up` works in this data directory."""


class PortTaken(Refused):
    """Web cannot listen there."""


class ChildFailed(Refused):
    """A process died before it was ready; the message holds the last it said."""


class AccountUnknown(Refused):
    """No account has that e-mail address."""


class MoneyInFlight(Refused):
    """Payments of this sale are open: let them end first."""


class ProviderAway(Refused):
    """The sandbox provider does not show its charges: is it running?"""


class RebuildBusy(Refused):
    """This sale is being rebuilt by another process already."""


class ClockFixed(Refused):
    """The clock moves only where the system was started with ONSALE_TEST_CLOCK=1."""
