"""What runs is changed while it runs: commands over Redis, and what every instance says of itself.

``command`` is what a command looks like and how it is sent; ``desk`` hears commands and runs them
on the fleet, one at a time per exchange; ``registry`` is who is there; ``memory`` is what a process
that was killed comes back to.
"""

from livermore.control.command import Answer, Command, encode, parse, send

__all__ = ["Answer", "Command", "encode", "parse", "send"]
