"""The users of servers in tests: what runs against a server signs in as the product does."""

from __future__ import annotations

from typing import Final

from roomful.control.link import Credentials
from roomful.shard.resp import Login
from roomful.shard.users import Role

__all__ = ["CONTROLLER", "EDGE", "USERS"]

USERS: Final = {role: (f"password-of-{role.value}",) for role in Role}
EDGE: Final = Login(Role.EDGE.value, USERS[Role.EDGE][0])
CONTROLLER: Final = Credentials(USERS[Role.CONTROLLER][0], Role.CONTROLLER.value)
