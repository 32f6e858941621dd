"""Exchanges on loopback that speak the real protocol and misbehave on command.

Five nouns: the **market** is made of trades and keeps the truth; the **clock** runs as fast as
told; the **feed** says who hears what and when; **faults** bend what is said, never what is true;
**control** is the door for tests. Everything a client hears is derived from the trades. What an
exchange alone says, and how, is in a room of its own, such as :mod:`~livermore.simulator.coinbase`.
"""

from livermore.simulator.limits import Limits
from livermore.simulator.server import Simulator, serve
from livermore.simulator.settings import SimulatorSettings

__all__ = ["Limits", "Simulator", "SimulatorSettings", "serve"]
