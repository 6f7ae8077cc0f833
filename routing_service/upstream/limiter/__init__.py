"""Politeness towards upstreams: how much may be sent to each model now, by all pumps together.

Requests and tokens a minute, from the configuration and from what upstreams say; what an upstream asks to wait; and a
number of calls at a time that falls when an upstream is overloaded. The state is shared through the broker's Redis. A
pump asks before it claims, so that no request waits with its money reserved. `arithmetic` holds the rules, exchange.lua
the same for Redis, `shared` the way there, `limiter` what a pump uses.
"""

from routing_service.upstream.limiter.limiter import Limiter as Limiter
from routing_service.upstream.limiter.limiter import Share as Share
from routing_service.upstream.limiter.shared import SharedLimits as SharedLimits
from routing_service.upstream.limiter.shared import redis_url as redis_url
